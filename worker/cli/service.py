"""`worker serve`, `migrate`, `doctor`, `suspend` and `resume`: run the service, prepare and check it, let it wait."""

from __future__ import annotations

import gc
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from worker.audit import events
from worker.cli.context import EXIT_FAULT, ConfigOption, audited, settings_from
from worker.errors import StartError
from worker.process import ProcessRole

commands = typer.Typer()


@commands.command(rich_help_panel="The service", epilog="Example: worker serve --config config.toml")
def serve(
    config: ConfigOption = None,
    role: Annotated[ProcessRole | None, typer.Option(help="Role to run; by default all of them.")] = None,
) -> None:
    """Receive, classify and report until SIGTERM or Ctrl-C."""
    gc.disable()  # until the service is ready: what it imports stays, and collections would walk all of it
    try:
        _serve(config, role)
    finally:
        gc.enable()


def _serve(config: Path | None, role: ProcessRole | None) -> None:
    from worker.logs import configure_logs
    from worker.service.roles import run_role, run_service

    settings, _ = settings_from(config)
    configure_logs(settings.worker.log_level)
    try:
        settings.worker.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        detail = f"[worker] data_dir: {settings.worker.data_dir} cannot be made: {error.strerror}"
        raise StartError("data-folder", detail) from None
    if role is not None:
        run_role(role, settings)
        return
    raise typer.Exit(run_service(settings))


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


class StageName(StrEnum):
    """As `worker.db.tables.Stage`, whose import takes time."""

    CLASSIFICATION = "classification"
    DELIVERIES = "deliveries"


_Stages = Annotated[list[StageName] | None, typer.Argument(help="By default both.")]


@commands.command(rich_help_panel="The service", epilog="Example: worker suspend deliveries")
def suspend(stage: _Stages = None, config: ConfigOption = None) -> None:
    """Let classification or deliveries wait while receiving goes on, until `worker resume`."""
    from worker.db.operating import suspensions
    from worker.db.tables import Stage

    stages = [Stage(name) for name in stage or StageName]
    with audited(config) as (_, database, record, user):
        with database.write() as session:
            added = suspensions.suspend(session, stages, user, datetime.now(UTC))
        record(events.operated(user, None, f"worker suspend {' '.join(stages)}"))
    for name in stages:
        typer.echo(f"{name}: {'suspended' if name in added else 'already suspended'}")


@commands.command(rich_help_panel="The service", epilog="Example: worker resume")
def resume(stage: _Stages = None, config: ConfigOption = None) -> None:
    """Resume what was suspended."""
    from worker.db.operating import suspensions
    from worker.db.tables import Stage

    stages = [Stage(name) for name in stage or StageName]
    with audited(config) as (_, database, record, user):
        with database.write() as session:
            resumed = suspensions.resume(session, stages)
        record(events.operated(user, None, f"worker resume {' '.join(stages)}"))
    for name in stages:
        typer.echo(f"{name}: {'resumed' if name in resumed else 'was not suspended'}")
