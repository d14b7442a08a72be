"""`monai-train`: from a folder of pictures to a bundle that the worker serves.

Exit codes: 0 success, 2 startup error; `retrain` also 1: the new model is written but not offered.
Every import that costs time waits until its command is called.
"""

from __future__ import annotations

import os
import sys

import typer
from rich.console import Console

from monai_train.cli import data, evaluation, export, imported, training
from worker import __version__
from worker.errors import StartError, WorkerError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Train and evaluate brain-MRI classifiers, splitting by patient. Research use only.",
)
app.command("convert")(data.convert_command)
app.command("explore")(data.explore_command)
app.command("audit")(data.audit_command)
app.command("train")(training.train_command)
app.command("settings")(training.settings_command)
app.command("search")(training.search_command)
app.command("evaluate")(evaluation.evaluate_command)
app.command("compare")(evaluation.compare_command)
app.command("crossval")(evaluation.crossval_command)
app.command("evaluate-default")(evaluation.evaluate_default_command)
app.command("export")(export.export_command)
app.command("retrain")(export.retrain_command)
app.command("import")(imported.import_command)
app.command("seeds")(evaluation.seeds_command)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
    ),
) -> None: ...


def main() -> None:
    """Run the program; a fault that a person can fix is one line on standard error and exit code 2."""
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and sys.argv[1:2] != ["train"]:
            raise StartError("usage", "torchrun supports `train` only: every other command runs as a single process")
        app()
    except WorkerError as error:
        Console(stderr=True).print(f"monai-train: {error.detail}", highlight=False, soft_wrap=True)
        sys.exit(2)
