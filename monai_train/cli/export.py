"""`export` and `retrain`: the commands that write a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from rich.console import Console

from monai_train.cli.options import (
    BatchOption,
    ConfigOption,
    DataOption,
    DeviceOption,
    EpochsOption,
    RateOption,
    SamplesOption,
    SeedOption,
    ThreadsOption,
)
from worker.errors import StartError
from worker.wording import counted


def export_command(
    data: DataOption,
    run: list[Path] = typer.Option(..., "--run", help="Folder of a finished run; several with --average."),
    out: Path = typer.Option(..., "--out", help="Folder of the bundle; must not exist."),
    name: str = typer.Option("brain-mri-tumour", help="Name of the model, and of its folder as default."),
    version: str = typer.Option("0.1.0"),
    average: bool = typer.Option(
        False, "--average", help="Export the mean of several runs' weights; they began from the same --weights."
    ),
    concepts: Path | None = typer.Option(
        None, "--concepts", help="TOML file with the coded concepts of classes that are not known (docs/models.md)."
    ),
    as_default: bool = typer.Option(
        False, "--as-default", help="Make it the worker's default, unless it is worse than the present default."
    ),
) -> None:
    """Make the bundle that the worker serves, and measure it for its model card.

    Example: monai-train export --run runs/first --data converted --out runs/first-bundle --as-default
    """
    from monai_train.export.export import export
    from monai_train.export.install import install_default

    if (len(run) > 1) != average:
        raise StartError("usage", "--average needs several --run options, and several --run options need --average")
    bundle = export(run[0], data, out, name, version, average_with=run[1:], concepts=concepts)
    typer.echo(f"bundle: {bundle}")
    if as_default:
        typer.echo(f"default: {install_default(bundle, data)}")


def retrain_command(
    bundle: Path = typer.Option(..., "--bundle", help="The present model: training starts from its weights."),
    data: Path = typer.Option(..., "--data", help="Converted folder that the present model was trained on."),
    from_worker: Path = typer.Option(
        ..., "--from-worker", help="Folder that `convert --from-worker` wrote: the site's confirmed series."
    ),
    run: Path = typer.Option(..., "--run", help="Folder of the run; resumes an interrupted run."),
    out: Path = typer.Option(..., "--out", help="Folder of the new bundle; must not exist."),
    version: str = typer.Option(..., "--version", help="Version of the new bundle."),
    config: ConfigOption = None,
    healthy: Path | None = typer.Option(None, "--healthy", help="The healthy volume that `train` was given, if any."),
    epochs: EpochsOption = None,
    samples: SamplesOption = None,
    batch: BatchOption = None,
    learning_rate: RateOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    json_file: Path | None = typer.Option(None, "--json", help="Write both models' figures to this file."),
) -> None:
    """Fine-tune the present model on confirmed series, and offer the new model only if it is not worse.

    Exit code 0: offered, 1: not offered (the bundle is written all the same), 2: startup error.
    Example: monai-train retrain --bundle old --data data --from-worker seen --run runs/site --version 2 --out new
    """
    from monai_train.evaluation.compare import comparison_json, comparison_table
    from monai_train.export.retrain import EXIT_NOT_OFFERED, FEW_PATIENTS, retrain, retrain_settings
    from worker.inference.bundle import load_bundle

    given: dict[str, object] = {
        "epochs": epochs,
        "samples_per_epoch": samples,
        "batch": batch,
        "learning_rate": learning_rate,
    }
    given |= {"seed": seed, "device": device, "threads": threads}
    settings = retrain_settings(bundle, config, **given)
    result = retrain(bundle, data, from_worker, run, out, settings, version, healthy)
    for what, models in result.compared.items():
        Console().print(comparison_table(f"{what}; * the interval of the difference excludes 0", models))
    if result.patients < FEW_PATIENTS:
        typer.echo(
            f"{counted(result.patients, 'patient')} of the site kept out: "
            f"with fewer than {FEW_PATIENTS}, figures say little"
        )
    if json_file is not None:
        try:
            json_file.write_text(json.dumps(comparison_json(result.compared), indent=2) + "\n")
        except OSError as error:
            raise StartError("output-not-writable", f"cannot write {json_file}: {error.strerror}") from None
    typer.echo(f"bundle: {out}")
    if result.faults:
        typer.echo("not offered:\n" + "\n".join(f"- {fault}" for fault in result.faults))
        raise typer.Exit(EXIT_NOT_OFFERED)
    typer.echo("not worse than the present model. Nothing has changed; run the new model in shadow:")
    name = load_bundle(out).identity.name
    typer.echo(f"  worker models add {out}\n  worker models shadow {name} {version}")
