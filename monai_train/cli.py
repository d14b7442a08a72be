"""`monai-train`: from a folder of pictures to a bundle that the worker serves. Exit codes: 0 done, 2 cannot start.

`retrain` has 1 as well: done, and the new model is not offered.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import typer
from rich.console import Console

from worker.errors import StartError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Train and judge brain-MRI classifiers with patients kept apart. Research use only.",
)
DATA = typer.Option(..., "--data", help="Folder that `convert` wrote, or its manifest.csv.")


@app.command("train")
def train_command(
    data: Path = DATA,
    run: Path = typer.Option(Path("runs/train"), "--run", help="Folder of the run; a stopped run goes on from here."),
    config: Path | None = typer.Option(None, "--config", help="JSON of TrainConfig keys; options below win."),
    network: str | None = typer.Option(None, help="resnet18-slim, resnet18, densenet121, ..."),
    weights: Path | None = typer.Option(None, "--weights", help="Start from these: checkpoint or safetensors."),
    healthy: Path | None = typer.Option(None, "--healthy", help="DICOM folder of a healthy axial volume: more heads."),
    teachers: list[Path] = typer.Option(
        [],
        "--teachers",
        help="Finished run on the same split whose answers the network learns too; several by repeating.",
    ),
    epochs: int | None = typer.Option(None, min=1),
    learning_rate: float | None = typer.Option(None),
    seed: int | None = typer.Option(None),
    threads: int | None = typer.Option(None, min=1),
) -> None:
    """Train a network; a second call goes on exactly where a stopped one was. On several devices (--config with
    "device": "cuda", or "cpu"): torchrun --nproc-per-node 2 -m monai_train train ...

    Example: monai-train train --data converted --run runs/first --network resnet18-slim --epochs 12
    """
    from monai_train.config import read_config
    from monai_train.training.distributed import leads
    from monai_train.training.train import DivergedError, train

    settings = read_config(
        config, network=network, epochs=epochs, learning_rate=learning_rate, seed=seed, threads=threads
    )
    try:
        best = train(data, run, settings, weights, healthy, teachers=teachers)
    except DivergedError as error:
        raise StartError("diverged", str(error)) from error
    except OSError as error:
        raise StartError("cannot-write", f"{error.strerror}: the last whole checkpoint in {run} is kept") from error
    if leads():
        typer.echo(f"best checkpoint: {best}")


@app.command("evaluate")
def evaluate_command(
    data: Path = DATA,
    bundle: Path | None = typer.Option(None, "--bundle", help="Bundle folder: its shipped engine is measured."),
    run: list[Path] = typer.Option(
        [], "--run", help="Run folder: its best checkpoint is measured by torch. Several are an ensemble."
    ),
    json_file: Path | None = typer.Option(None, "--json", help="Write every figure to this file."),
    report: Path | None = typer.Option(
        None, "--report", help="Folder for an HTML report on every part: plots, maps, mistakes, other pictures."
    ),
    role: str | None = typer.Option(
        None, help="Only this part of the model's own split: test, validation, train or external."
    ),
    one_a_picture: bool = typer.Option(False, "--one-a-picture", help="Count copies of one picture once."),
    precision: str = typer.Option("int8", help="Engine of a bundle: int8 (as shipped) or fp32."),
    flip: bool = typer.Option(False, "--flip", help="Average with the mirrored picture in any case."),
    log: Path | None = typer.Option(None, "--log", help="log.csv of a bundle's training, for the report."),
    outside: Path | None = typer.Option(
        None, "--outside", help="DICOM that is no structural brain MRI (EPI, say), for the report."
    ),
) -> None:
    """Measure a bundle or a run on a converted folder; n and a patient bootstrap interval beside every figure.

    Example: monai-train evaluate --bundle worker/bundles/brain-mri-tumour --data converted --json figures.json
    """
    from monai_train.data.dataset import Role, read_manifest
    from monai_train.evaluation.evaluate import choose, read_split
    from monai_train.evaluation.report import bundle_subject, runs_subject, write_report
    from monai_train.evaluation.tables import report_table

    if (bundle is None) == (not run):
        raise StartError("usage", "give either --bundle or --run")
    if precision not in ("int8", "fp32"):
        raise StartError("usage", "--precision is int8 or fp32")
    if role is not None and role not in list(Role):
        raise StartError("usage", f"--role is one of {', '.join(Role)}")
    if bundle is not None:
        subject = bundle_subject(bundle, "fp32" if precision == "fp32" else "int8", flip)
    else:
        subject = runs_subject(run, flip)
    if report is not None:
        written = write_report(subject, data, report, log, outside)
        Console().print(f"report: {written}", highlight=False, soft_wrap=True)
        if json_file is None:
            return
    rows = read_manifest(data)
    roles = None
    if role is not None:
        roles = (subject.split or read_split(bundle or Path())).roles(rows)
    chosen = choose(rows, roles, Role(role) if role else None, one_a_picture)
    figures = subject.examine(data, rows, chosen)[0].report()
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")
    Console().print(report_table(f"{subject.name}, {role or 'all pictures'}", figures))


@app.command("export")
def export_command(
    run: list[Path] = typer.Option(..., "--run", help="Folder of a finished run; several with --average."),
    data: Path = DATA,
    out: Path = typer.Option(..., "--out", help="Folder of the bundle; must not exist."),
    name: str = typer.Option("brain-mri-tumour", help="Name of the model, and of its folder as default."),
    version: str = typer.Option("0.1.0"),
    average: bool = typer.Option(
        False, "--average", help="Export the mean of several runs' weights; they began from the same --weights."
    ),
    as_default: bool = typer.Option(
        False, "--as-default", help="Make it the worker's default, unless it is worse than the present one."
    ),
) -> None:
    """Make the bundle that the worker serves, and measure it for its model card.

    Example: monai-train export --run runs/first --data converted --out runs/first-bundle --as-default
    """
    from monai_train.export.export import export
    from monai_train.export.install import install_default

    if (len(run) > 1) != average:
        raise StartError("usage", "several --run are exported as one with --average, and only they")
    bundle = export(run[0], data, out, name, version, average_with=run[1:])
    typer.echo(f"bundle: {bundle}")
    if as_default:
        typer.echo(f"default: {install_default(bundle, data)}")


@app.command("evaluate-default")
def evaluate_default_command(
    source: Path = typer.Argument(..., metavar="DATA", help="Folder of pictures; audit.tsv in it gives the groups."),
    bundle: Path | None = typer.Option(None, "--bundle", help="Another bundle than the worker's default."),
) -> None:
    """Convert the pictures and print the default model's figures with patients apart, as its model card has them.

    Example: monai-train evaluate-default data/brain-mri
    """
    from monai_train.data.convert import convert
    from monai_train.evaluation.evaluate import measure_split
    from monai_train.export.model_card import figures_markdown
    from worker.inference.bundle import default_bundle

    folder = bundle or default_bundle()
    groups = source / "audit.tsv"
    with tempfile.TemporaryDirectory() as temporary:
        converted = Path(temporary) / "converted"
        convert(source, converted, groups=groups if groups.is_file() else None)
        measured = measure_split(folder, converted)
    typer.echo(figures_markdown(measured))


def _register_others() -> None:
    """The commands of the modules that bring their own."""
    for name in (
        "data.convert",
        "data.explore",
        "data.leakage",
        "evaluation.compare",
        "evaluation.crossval",
        "systems.seeds",
        "training.hyperparameters",
        "export.retrain",
    ):
        import_module(f"monai_train.{name}").register(app)


def main() -> None:
    """Run the program; a StartError is one line and exit code 2."""
    _register_others()
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and sys.argv[1:2] != ["train"]:
            raise StartError("usage", "only `train` runs under torchrun: the others write one folder by one process")
        app()
    except StartError as error:
        Console(stderr=True).print(f"monai-train: {error.detail}", highlight=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
