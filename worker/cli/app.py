"""The `worker` command: its groups of commands and its exit codes.

Every import that takes time waits until its command runs, so that `worker --help` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperOption

from worker import __version__
from worker.cli import (
    audit,
    backup,
    conflicts,
    jobs,
    models,
    offline,
    readings,
    results,
    routes,
    service,
    studies,
    tokens,
)
from worker.cli.context import ADMINISTRATION, EXIT_FAULT, EXIT_START, MODELS
from worker.errors import StartError, WorkerError
from worker.process import hide_files_from_others

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="AI worker for the PACS: receives MRI series, classifies them, returns Structured Reports. "
    "[bold]Research use only.[/bold]",
    epilog="Exit codes: 0 success, 1 problems found, 2 startup error.",
)
app.add_typer(service.commands)
app.add_typer(offline.commands)
for group, name in (
    (results.commands, "results"),
    (studies.commands, "studies"),
    (studies.series_commands, "series"),
    (jobs.commands, "jobs"),
    (jobs.delivery_commands, "deliveries"),
    (conflicts.commands, "conflicts"),
):
    app.add_typer(group, name=name, rich_help_panel="Series, answers and what waits")
app.add_typer(models.commands, name="models", rich_help_panel=MODELS)
app.add_typer(routes.commands, name="routes", rich_help_panel=MODELS)
app.add_typer(readings.commands, name="readings", rich_help_panel=MODELS)
app.add_typer(readings.report_command)
app.add_typer(tokens.commands, name="tokens", rich_help_panel=ADMINISTRATION)
app.add_typer(audit.commands, name="audit", rich_help_panel=ADMINISTRATION)
app.add_typer(backup.commands)


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
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None: ...
