"""`train` and `search`."""

from __future__ import annotations

import signal
from pathlib import Path
from threading import Event

import typer

from monai_train.cli.options import (
    BatchOption,
    ConfigOption,
    DataOption,
    DeviceOption,
    EpochsOption,
    NetworkOption,
    RateOption,
    SamplesOption,
    SchedulerOption,
    SeedOption,
    SetOption,
    ThreadsOption,
    WorkersOption,
    chosen_cluster,
)
from monai_train.config import TrackerName, TrialSampler, read_config, settings
from worker.errors import StartError


def train_command(
    data: DataOption,
    run: Path = typer.Option(Path("runs/train"), "--run", help="Folder of the run; resumes an interrupted run."),
    config: ConfigOption = None,
    network: NetworkOption = None,
    weights: Path | None = typer.Option(None, "--weights", help="Initial weights: a checkpoint or safetensors file."),
    healthy: Path | None = typer.Option(
        None, "--healthy", help="DICOM folder of a healthy axial volume: additional heads without a tumour."
    ),
    teachers: list[Path] = typer.Option(
        [], "--teachers", help="Finished run on the same split to distil from; repeat the option for several."
    ),
    epochs: EpochsOption = None,
    samples: SamplesOption = None,
    batch: BatchOption = None,
    learning_rate: RateOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    tracker: TrackerName | None = typer.Option(
        None,
        "--tracker",
        help="Log to MLflow or Weights & Biases, too, where it is installed: into the folder of the run.",
    ),
    assigned: SetOption = None,
) -> None:
    """Train a network; the same command resumes an interrupted run exactly. On several devices:
    torchrun --nproc-per-node 2 -m monai_train train --device cuda ...

    Example: monai-train train --data converted --run runs/first --network resnet18-slim --epochs 12
    """
    from monai_train.evaluation.epoch_pictures import epoch_pictures
    from monai_train.training.distributed import is_main_process
    from monai_train.training.train import (
        DivergedError,
        train,
    )

    configuration = read_config(
        config,
        assigned,
        network=network,
        epochs=epochs,
        samples_per_epoch=samples,
        batch=batch,
        learning_rate=learning_rate,
        seed=seed,
        device=device,
        threads=threads,
    )
    try:
        best = train(
            data, run, configuration, weights, healthy, teachers=teachers, draw=epoch_pictures, tracker=tracker
        )
    except DivergedError as error:
        raise StartError("diverged", str(error)) from error
    except OSError as error:
        raise StartError(
            "cannot-write", f"{error.strerror}: the last complete checkpoint in {run} is retained"
        ) from error
    if is_main_process():
        typer.echo(f"best checkpoint: {best}")


def search_command(
    data: DataOption,
    out: Path = typer.Option(Path("runs/search"), "--out", help="Folder of the search; resumes an interrupted search."),
    trials: int = typer.Option(20, min=1, help="Total number of trials, finished ones included."),
    sampler: TrialSampler = typer.Option(TrialSampler.TPE, help="tpe, or every point of the grid."),
    space: Path | None = typer.Option(None, "--space", help="JSON file of ranges and networks."),
    config: Path | None = typer.Option(None, "--config", help="JSON file of TrainConfig keys that all trials share."),
    epochs: EpochsOption = None,
    storage: str | None = typer.Option(None, help="Database URL; SQLite in OUT by default, PostgreSQL is supported."),
    name: str = typer.Option("search", help="Name of the study in the database."),
    samples: SamplesOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    assigned: SetOption = None,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
) -> None:
    """Search learning rate, weight decay, clipping, augmentation and network; the test patients stay unseen.

    Example: monai-train search --data converted --out runs/search --trials 6 --epochs 3
    """
    import optuna

    if scheduler is not None and storage is None:
        raise StartError("usage", "--scheduler needs --storage: a database that every machine reaches")
    from monai_train.training.hyperparameters import best_trial, format_parameters, read_space, search

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    base = read_config(config, assigned, epochs=epochs, samples_per_epoch=samples, device=device, threads=threads)
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with chosen_cluster(workers, scheduler) as cluster:
            study = search(
                data, out, base, read_space(space), trials, sampler, storage, name, stop=stop, cluster=cluster
            )
    except KeyboardInterrupt:
        typer.echo("stopped; the same command resumes the interrupted trial")
        raise typer.Exit(130) from None
    best = best_trial(study)
    typer.echo("no trial was finished" if best is None else f"best {best.value:.4f}: {format_parameters(best.params)}")
    typer.echo(f"tables and charts: {out}")


def settings_command(
    markdown: bool = typer.Option(False, "--markdown", help="As the table of docs/training.md."),
) -> None:
    """List every setting of training with its default and meaning, for --config and --set.

    Example: monai-train settings
    """
    if markdown:
        typer.echo("| setting | default | meaning |\n|---|---|---|")
    for setting in settings():
        typer.echo(
            f"| `{setting.key}` | `{setting.default}` | {setting.meaning} |"
            if markdown
            else f"{setting.key} = {setting.default}\n    {setting.meaning}"
        )
