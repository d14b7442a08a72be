"""`worker serve`, `worker migrate` and `worker doctor`: run the service, and prepare and check what it needs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from worker.cli.context import EXIT_FAULT, ConfigOption, settings_from
from worker.errors import StartError
from worker.process import ProcessRole

commands = typer.Typer()


@commands.command(rich_help_panel="The service", epilog="Example: worker serve --config config.toml")
def serve(
    config: ConfigOption = None,
    role: Annotated[ProcessRole | None, typer.Option(help="Role to run; by default all of them.")] = None,
) -> None:
    """Receive, classify and report until SIGTERM or Ctrl-C."""
    from worker.logs import configure_logs
    from worker.service.roles import run_role, run_service

    settings, path = settings_from(config)
    configure_logs(settings.worker.log_level)
    try:
        settings.worker.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        detail = f"[worker] data_dir: {settings.worker.data_dir} cannot be made: {error.strerror}"
        raise StartError("data-folder", detail) from None
    if role is not None:
        run_role(role, settings)
        return
    raise typer.Exit(run_service(settings, path))


@commands.command(rich_help_panel="The service", epilog="Example: worker doctor --config config.toml")
def doctor(
    config: ConfigOption = None,
    role: Annotated[
        ProcessRole | None, typer.Option(help="Check only whether this role is running on this host.")
    ] = None,
) -> None:
    """Check configuration, database, disk, bundles and every destination; for each fault, print what to do."""
    from worker.cli.output import print_findings
    from worker.ops.doctor import examine, examine_role

    settings, path = settings_from(config)
    moment = datetime.now(UTC)
    findings = [examine_role(settings, role, moment)] if role else examine(settings, path, moment)
    if not print_findings(findings):
        raise typer.Exit(EXIT_FAULT)


@commands.command(rich_help_panel="The service", epilog="Example: worker migrate --config config.toml")
def migrate(config: ConfigOption = None) -> None:
    """Upgrade the database to the schema of this version."""
    from worker.db.engine import Database
    from worker.db.migrate import migrate as apply

    settings, _ = settings_from(config)
    before, after = apply(Database(settings.database.url))
    typer.echo(f"database: {before or 'empty'} → {after}" if before != after else f"database: {after}, up to date")
