"""`worker backup` and `worker restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from worker.audit import events
from worker.cli.context import ADMINISTRATION, EXIT_FAULT, ConfigOption, audited, settings_from
from worker.wording import counted

commands = typer.Typer()


@commands.command(rich_help_panel=ADMINISTRATION, epilog="Example: worker backup /backup/today --config config.toml")
def backup(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    config: ConfigOption = None,
) -> None:
    """Copy the database and the files to a folder and verify each file's hash; the service may keep running."""
    from worker.cli import output
    from worker.ops.backup import back_up

    settings, _ = settings_from(config)
    copied, missing = output.with_steps("copying", lambda step: back_up(settings, folder, step))
    with audited(config) as (_, _, record, user):
        record(events.exported(user, None, "worker backup", str(folder)))
    typer.echo(f"database and {counted(copied, 'file')} copied to {folder}")
    if missing:
        typer.echo(f"worker: {counted(missing, 'file')} missing or damaged, and therefore not in the copy", err=True)
        raise typer.Exit(EXIT_FAULT)


@commands.command(rich_help_panel=ADMINISTRATION, epilog="Example: worker restore /backup/today --config config.toml")
def restore(
    folder: Annotated[Path, typer.Argument(help="A folder that `worker backup` wrote.")],
    config: ConfigOption = None,
) -> None:
    """Restore a backup into the empty data folder and database of the configuration."""
    from worker.cli import output
    from worker.ops.backup import restore_backup

    settings, _ = settings_from(config)
    files = output.with_steps("copying", lambda step: restore_backup(settings, folder, step))
    with audited(config) as (_, _, record, user):
        record(events.imported(user, str(folder)))
    typer.echo(f"database and {counted(files, 'file')} restored from {folder}")
