"""`evaluate`, `compare`, `crossval`, `evaluate-default` and `seeds`: every command that only measures."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import typer
from rich.console import Console

from monai_train.cli.options import (
    BatchOption,
    ConfigOption,
    DataOption,
    DeviceOption,
    EpochsOption,
    FlipOption,
    NetworkOption,
    PrecisionOption,
    SamplesOption,
    SchedulerOption,
    SetOption,
    WorkersOption,
    chosen_cluster,
)
from monai_train.config import read_config
from worker.errors import StartError


def evaluate_command(
    data: DataOption,
    bundle: Path | None = typer.Option(None, "--bundle", help="Bundle folder: its shipped engine is measured."),
    run: list[Path] = typer.Option(
        [], "--run", help="Run folder: its best checkpoint is measured with torch; several runs form an ensemble."
    ),
    json_file: Path | None = typer.Option(None, "--json", help="Write every figure to this file."),
    report: Path | None = typer.Option(
        None, "--report", help="Folder for an HTML report on every part: plots, maps, errors, out-of-distribution."
    ),
    role: str | None = typer.Option(
        None,
        help="Part of the model's own split: test, validation, train, external, or all. Default: what it never saw.",
    ),
    deduplicate: bool = typer.Option(False, "--deduplicate", help="Count the copies of a picture once."),
    precision: PrecisionOption = "int8",
    flip: bool = typer.Option(False, "--flip", help="Always average with the mirrored picture."),
    log: Path | None = typer.Option(None, "--log", help="log.csv of a bundle's training, for the report."),
    outside: Path | None = typer.Option(
        None, "--outside", help="DICOM that is not structural brain MRI (EPI, for example), for the report."
    ),
) -> None:
    """Measure a bundle or a run on a converted folder; every figure with n and a patient bootstrap interval.

    By default, the test part is measured if the model was trained on this folder, otherwise all of it.
    Example: monai-train evaluate --bundle worker/bundles/brain-mri-tumour --data converted --json figures.json
    """
    from monai_train.data.manifest import read_manifest
    from monai_train.data.patients import SplitRole
    from monai_train.evaluation.cohorts import evaluated_bundle, evaluated_runs, evaluation_json, measured_part
    from monai_train.evaluation.report_files import write_report
    from monai_train.evaluation.tables import group_table, report_table

    if (bundle is None) == (not run):
        raise StartError("usage", "give either --bundle or --run")
    if precision not in ("int8", "fp32"):
        raise StartError("usage", "--precision is int8 or fp32")
    if role is not None and role not in (*SplitRole, "all"):
        raise StartError("usage", f"--role is one of {', '.join(SplitRole)}, all")
    if bundle is not None:
        model = evaluated_bundle(bundle, "fp32" if precision == "fp32" else "int8", flip)
    else:
        model = evaluated_runs(run, flip)
    if report is not None:
        written = write_report(model, data, report, log, outside)
        Console().print(f"report: {written}", highlight=False, soft_wrap=True)
        if json_file is None:
            return
    rows = read_manifest(data)
    part = measured_part(model, rows, role, deduplicate)
    figures = evaluation_json(model.examine(data, rows, part.chosen)[0], [rows[i] for i in part.chosen])
    figures["part"] = part.to_json(rows)
    if json_file is not None:
        try:
            json_file.write_text(json.dumps(figures, indent=2) + "\n")
        except OSError as error:
            raise StartError("output-not-writable", f"cannot write {json_file}: {error.strerror}") from None
    console = Console()
    console.print(report_table(f"{model.name}, {part.name} (n={len(part.chosen)} of {len(rows)})", figures))
    if figures["groups"]:
        console.print(group_table(figures["groups"]))
    if "studies" in figures:
        console.print(f"studies: {figures['studies']['verdict']}", highlight=False, soft_wrap=True)
    console.print(f"measured: {part.note}", highlight=False, soft_wrap=True)
    for warning in figures["warnings"]:
        console.print(f"warning: {warning}", highlight=False, soft_wrap=True)


def compare_command(
    data: DataOption,
    models: list[Path] = typer.Argument(..., metavar="MODEL...", help="Runs or bundles; the first is the reference."),
    role: str = typer.Option("test", help="Part of the models' split: test, validation or external."),
    precision: PrecisionOption = "int8",
    flip: bool = typer.Option(False, "--flip", help="Average with the mirrored picture."),
    json_file: Path | None = typer.Option(None, "--json", help="Write every figure and difference to this file."),
    plot: Path | None = typer.Option(None, "--plot", help="Write the plot, a PNG, to this file."),
) -> None:
    """Compare models on the same patients: figures, and paired differences from the first with their intervals.

    Example: monai-train compare runs/first runs/second --data converted --plot comparison.png
    """
    from monai_train.data.patients import SplitRole
    from monai_train.evaluation.compare import balanced_accuracy_chart, compare, comparison_json, comparison_table

    if role not in (SplitRole.TEST, SplitRole.VALIDATION, SplitRole.EXTERNAL):
        raise StartError("usage", "--role is test, validation or external")
    if precision not in ("int8", "fp32"):
        raise StartError("usage", "--precision is int8 or fp32")
    by_level = compare(models, data, SplitRole(role), "fp32" if precision == "fp32" else "int8", flip)
    try:
        if json_file is not None:
            json_file.write_text(json.dumps(comparison_json(by_level), indent=2) + "\n")
        if plot is not None:
            plot.write_bytes(balanced_accuracy_chart(by_level["slice"]))
    except OSError as error:
        raise StartError("output-not-writable", f"cannot write the comparison: {error.strerror}") from None
    for level, compared in by_level.items():
        title = f"{role}, by {level}; * the interval of the difference excludes 0"
        Console().print(comparison_table(title, compared))


def crossval_command(
    data: DataOption,
    run: Path = typer.Option(
        Path("runs/crossval"), "--run", help="Folder of the folds; resumes an interrupted cross-validation."
    ),
    folds: int = typer.Option(5, "--folds", min=2, help="Outer folds; within each, as many for choosing the epoch."),
    config: ConfigOption = None,
    network: NetworkOption = None,
    epochs: EpochsOption = None,
    samples: SamplesOption = None,
    batch: BatchOption = None,
    device: DeviceOption = None,
    assigned: SetOption = None,
    dataset: str | None = typer.Option(None, help="Evaluate only the pictures of this data set; all of them train."),
    weights: Path | None = typer.Option(
        None, "--weights", help="Initial weights of every fold; they must not have been trained on DATA."
    ),
    flip: FlipOption = False,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Evaluate a training recipe by k folds of patients: no picture is classified by a model that saw its patient.

    Example: monai-train crossval --data converted --run runs/crossval --folds 3 --dataset cheng --epochs 3 --flip
    --network efficientnet-lite0 --weights efficientnet-lite0.pth
    """
    from monai_train.evaluation.crossval import cross_validate, fold_table
    from monai_train.evaluation.tables import report_table
    from monai_train.training.train import (
        DivergedError,
    )

    settings = read_config(
        config, assigned, network=network, epochs=epochs, samples_per_epoch=samples, batch=batch, device=device
    )
    try:
        with chosen_cluster(workers, scheduler) as cluster:
            report = cross_validate(data, run, settings, folds, dataset, weights, flip=flip, cluster=cluster)
    except DivergedError as error:
        raise StartError("diverged", str(error)) from error
    except OSError as error:
        raise StartError("cannot-write", f"{error.strerror}: the finished folds in {run} are retained") from error
    console = Console()
    console.print(report_table(f"{folds} folds, split by patient, {dataset or 'all data but the external'}", report))
    console.print(fold_table(report))
    console.print(f"report: {run / 'report.html'}", highlight=False, soft_wrap=True)


def evaluate_default_command(
    source: Path = typer.Argument(
        ..., metavar="DATA", help="Folder of pictures; audit.tsv in it gives the groups. Or what `convert` made of it."
    ),
    bundle: Path | None = typer.Option(None, "--bundle", help="Another bundle than the worker's default."),
    crossval: Path | None = typer.Option(None, "--crossval", help="report.json of `crossval`, for its row."),
    series_type: Path | None = typer.Option(
        None, "--series-type", help="What `benchmarks/series_type.py --json` wrote, for its row."
    ),
) -> None:
    """Convert the pictures and print the default model's goals and figures, patients apart, as in its model card.

    Example: monai-train evaluate-default data/brain-mri
    """
    from monai_train.data.convert import convert
    from monai_train.data.manifest import manifest_path
    from monai_train.export.goals import stored_goals
    from monai_train.export.model_card import measured_markdown
    from worker.inference.bundle import default_bundle

    folder, stored = bundle or default_bundle(), stored_goals(crossval, series_type)
    if manifest_path(source).is_file():
        typer.echo(measured_markdown(folder, source, stored))
        return
    groups = source / "audit.tsv"
    with tempfile.TemporaryDirectory() as temporary:
        converted = Path(temporary) / "converted"
        convert(source, converted, groups=groups if groups.is_file() else None)
        typer.echo(measured_markdown(folder, converted, stored))


def seeds_command(
    data: Path = typer.Argument(..., metavar="DATA", help="Folder that `convert` wrote, or a folder of pictures."),
    out: Path = typer.Option(Path("runs/seeds"), "--out", help="Folder of the rows; stored rows are not run again."),
    quick: float | None = typer.Option(None, min=0.001, max=1, help="This fraction of the pictures, marked so."),
    systems: str = typer.Option("abcde", help="Letters of the systems to run."),
    only: str | None = typer.Option(None, help="Only the rows of this network, for example `ours`."),
    weights: list[str] = typer.Option([], "--weights", help="NETWORK=FILE, for example vgg16=vgg16.pth."),
    device: str = typer.Option("cpu", help="cpu or cuda."),
    threads: int = typer.Option(2, min=1),
    document_file: Path | None = typer.Option(None, "--document", help="Also write the table to this file."),
) -> None:
    """Measure the five earlier systems on their own protocols, and ours on the same and split by patient.

    Example: monai-train seeds converted --quick 0.05 --out runs/seeds
    """
    import torch

    from monai_train.systems.definitions import read_ours, read_systems
    from monai_train.systems.seeds import SeedsSettings, converted_folder, measure_systems, parse_weights
    from monai_train.training.allocator import keep_freed_memory
    from monai_train.training.distributed import require_device

    require_device(device)
    torch.set_num_threads(threads)
    keep_freed_memory()
    settings = SeedsSettings(converted_folder(data, out), out, quick or 1.0, device, parse_weights(weights))
    text = measure_systems(read_systems(systems), settings, read_ours(), only, Console())
    if document_file is not None:
        document_file.write_text(text)
    typer.echo(f"table: {out / 'reference-systems.md'}")
