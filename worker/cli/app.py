"""The `worker` command: its groups of commands and its exit codes.

Every import that takes time waits until its command runs, so that `worker --help` answers at once; and of the modules
of commands only that of the command is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from worker.cli.context import ADMINISTRATION, ANSWERS, EXIT_FAULT, EXIT_START, MODELS
from worker.errors import StartError, WorkerError
from worker.process import hide_files_from_others


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a command is defined, or a group of commands, which stands in a panel of `worker --help`."""

    module: str
    commands: str = "commands"
    panel: str | None = None


_PLACES = {
    "serve": _Place("service"),
    "doctor": _Place("service"),
    "migrate": _Place("service"),
    "suspend": _Place("service"),
    "resume": _Place("service"),
    "fetch": _Place("offline"),
    "classify": _Place("offline"),
    "push": _Place("offline"),
    "echo": _Place("offline"),
    "results": _Place("results", panel=ANSWERS),
    "studies": _Place("studies", panel=ANSWERS),
    "series": _Place("studies", "series_commands", ANSWERS),
    "jobs": _Place("jobs", panel=ANSWERS),
    "deliveries": _Place("jobs", "delivery_commands", ANSWERS),
    "conflicts": _Place("conflicts", panel=ANSWERS),
    "models": _Place("models", panel=MODELS),
    "routes": _Place("routes", panel=MODELS),
    "readings": _Place("readings", panel=MODELS),
    "report": _Place("readings", "report_command"),
    "tokens": _Place("tokens", panel=ADMINISTRATION),
    "audit": _Place("audit", panel=ADMINISTRATION),
    "backup": _Place("backup"),
    "restore": _Place("backup"),
}


class _Commands(Mapping[str, TyperCommand | TyperGroup]):
    """The commands and groups by name, each imported when it is looked up."""

    def __getitem__(self, name: str) -> TyperCommand | TyperGroup:
        place = _PLACES[name]
        command: TyperCommand | TyperGroup = _load(place, name if place.panel is not None else None)[name]
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACES)

    def __len__(self) -> int:
        return len(_PLACES)


@cache
def _load(place: _Place, group: str | None) -> Mapping[str, Any]:
    """The commands of a module, or the group of this name that they make up, by name."""
    commands = getattr(import_module(f"worker.cli.{place.module}"), place.commands)
    parent = typer.Typer(rich_markup_mode="rich")
    parent.add_typer(commands, name=group, rich_help_panel=place.panel)
    return typer.main.get_group(parent).commands


class _Group(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands()  # type: ignore[assignment]  # nothing is added to it


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="AI worker for the PACS: receives MRI series, classifies them, returns Structured Reports. "
    "[bold]Research use only.[/bold]",
    epilog="Exit codes: 0 success, 1 problems found, 2 startup error.",
)

_display_type = TyperOption.display_type_rich


def _display_type_of_values(self: TyperOption, ctx: Any) -> str | None:
    """The type of an option's value in its help; a flag has none, for which typer shows `<bool>`."""
    return None if self.is_flag else _display_type(self, ctx)


TyperOption.display_type_rich = _display_type_of_values  # type: ignore[method-assign]


def main() -> None:
    """Entry point: a fault that a person can fix is one line on standard error."""
    from worker.logs import guard_standard_error, unexpected

    guard_standard_error()
    hide_files_from_others()
    try:
        app()
    except StartError as error:
        _end(error.detail, EXIT_START)
    except WorkerError as error:
        _end(error.detail, EXIT_FAULT)
    except BrokenPipeError:  # the program that reads our output has ended
        sys.exit(0)
    except OSError as error:  # of a file that the command was given, or of the disk
        what = f": {error.filename}" if error.filename else ""
        _end(f"{(error.strerror or type(error).__name__).lower()}{what}", EXIT_FAULT)
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "sqlalchemy":
            typer.echo(unexpected(error), err=True)
            sys.exit(EXIT_FAULT)
        from worker.db.engine import database_fault

        _end(f"the database failed: {database_fault(error)}", EXIT_FAULT)  # type: ignore[arg-type]


def _end(message: str, status: int) -> None:
    typer.echo(f"worker: {message}", err=True)
    sys.exit(status)


def _print_version(requested: bool) -> None:
    if requested:
        from worker import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None: ...
