"""`worker series`: have refused series settled again."""

from __future__ import annotations

from typing import Annotated

import typer

from worker.audit import events
from worker.cli.context import EXIT_FAULT, ConfigOption, audited
from worker.errors import StartError

commands = typer.Typer(no_args_is_help=True, help="Received series: settle refused ones again.")


@commands.callback()
def _group() -> None:
    """A group, although it has a single command."""


@commands.command("reconsider", epilog="Example: worker series reconsider --all-refused")
def reconsider(
    series: Annotated[str | None, typer.Argument(help="Series Instance UID, or the end of it.")] = None,
    all_refused: Annotated[bool, typer.Option("--all-refused", help="Every refused series.")] = False,
    config: ConfigOption = None,
) -> None:
    """Settle refused series again, after rules or models were changed and the service restarted."""
    from worker.db.series import reconsider_refused, reconsider_series
    from worker.db.views.search import find_series_by_suffix

    if (series is None) is not all_refused:
        raise StartError("usage", "name a series to settle again, or give --all-refused")
    with audited(config) as (_, database, record, user):
        if series is not None:
            with database.write() as session:
                uids = find_series_by_suffix(session, series.lstrip("…"))
                if len(uids) != 1:
                    fault = "the UIDs of several series end in this" if uids else "no such series was received"
                    typer.echo(f"worker: {fault}", err=True)
                    raise typer.Exit(EXIT_FAULT)
                if not reconsider_series(session, uids[0]):
                    typer.echo("worker: the series is not refused", err=True)
                    raise typer.Exit(EXIT_FAULT)
            opened, what = 1, uids[0]
        else:
            opened, what, after = 0, "--all-refused", 0
            while True:  # in parts, so that a receiver waits for none of them long
                with database.write() as session:
                    ids = reconsider_refused(session, after)
                if not ids:
                    break
                opened, after = opened + len(ids), ids[-1]
        record(events.operated(user, None, f"worker series reconsider {what}: {opened} series"))
    typer.echo(f"{opened} series will be settled again")
