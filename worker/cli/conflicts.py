"""`worker conflicts`: list contents with other pixels under known SOP Instance UIDs, and decide on them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli.context import EXIT_FAULT, ConfigOption, Format, FormatOption, audited, open_database
from worker.errors import StartError, WorkerError
from worker.wording import counted

if TYPE_CHECKING:
    from worker.storage.versions.conflicts import Conflicts

commands = typer.Typer(
    no_args_is_help=True, help="Images that came again with other pixels: list, accept or reject them."
)
_Numbers = Annotated[list[int] | None, typer.Argument(help="Numbers, as `worker conflicts list` shows them.")]


@commands.command("list", epilog="Example: worker conflicts list --format json")
def list_waiting(format: FormatOption = Format.TABLE, config: ConfigOption = None) -> None:
    """List what waits for a decision, with its series, and what differs from what is stored."""
    from worker.cli.output import print_rows
    from worker.db.views.conflicts import list_conflicts

    with open_database(config).read() as session:
        waiting = list_conflicts(session)
    print_rows(counted(len(waiting), "conflict"), waiting, format)


@commands.command("accept", epilog="Example: worker conflicts accept 3 4    or    worker conflicts accept --all")
def accept(
    conflict: _Numbers = None,
    every: Annotated[bool, typer.Option("--all", help="Every conflict that waits.")] = False,
    config: ConfigOption = None,
) -> None:
    """Have the content replace what is stored; its series are settled again, and reported anew."""
    now = datetime.now(UTC)
    _decide(conflict, every, config, "accepted", lambda each, number, by: each.accept(number, by, None, now))


@commands.command("reject", epilog="Example: worker conflicts reject 3")
def reject(
    conflict: _Numbers = None,
    every: Annotated[bool, typer.Option("--all", help="Every conflict that waits.")] = False,
    config: ConfigOption = None,
) -> None:
    """Delete the content; what is stored stays."""
    now = datetime.now(UTC)
    _decide(conflict, every, config, "rejected", lambda each, number, by: each.reject(number, by, None, now))


def _decide(
    numbers: list[int] | None,
    every: bool,
    config: ConfigOption,
    decided: str,
    decide: Callable[[Conflicts, int, str], None],
) -> None:
    from worker.db.views.conflicts import list_conflicts
    from worker.storage.versions.conflicts import Conflicts

    if bool(numbers) is every:
        raise StartError("usage", "name the conflicts to decide on, or give --all")
    with audited(config) as (settings, database, record, user):
        if every:
            with database.read() as session:
                numbers = [waiting.number for waiting in list_conflicts(session)]
        conflicts, faults = Conflicts(database, settings, record), 0
        for number in numbers or []:
            try:
                decide(conflicts, number, user)
            except WorkerError as fault:
                typer.echo(f"worker: conflict {number}: {fault.detail}", err=True)
                faults += 1
    typer.echo(f"{counted(len(numbers or []) - faults, 'conflict')} {decided}")
    if faults:
        raise typer.Exit(EXIT_FAULT)
