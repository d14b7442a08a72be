"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from worker.cluster import Cluster

DataOption = Annotated[Path, typer.Option("--data", help="Folder that `convert` wrote, or its manifest.csv.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="JSON file of settings (monai-train settings); the options below take precedence."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any setting of `monai-train settings`, for example augmentation.flip=0; repeat the option for several.",
    ),
]
NetworkOption = Annotated[str | None, typer.Option(help="resnet18-slim, resnet18, densenet121, ...")]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="Epochs, of --samples samples each.")]
SamplesOption = Annotated[
    int | None, typer.Option("--samples", min=1, help="Samples drawn in an epoch, whatever the number of pictures.")
]
BatchOption = Annotated[int | None, typer.Option("--batch", min=2, help="Samples in a batch.")]
RateOption = Annotated[float | None, typer.Option("--learning-rate", help="Highest learning rate of the schedule.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of weights, samples and transforms.")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="cpu, cuda or mps.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads of the processor.")]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1, max=1024, help="Run on a local Dask cluster of this number of processes, each with --set threads=N."
    ),
]
SchedulerOption = Annotated[
    str | None, typer.Option(help="Run on the Dask cluster whose scheduler is at tcp:// or tls://HOST:PORT.")
]
PrecisionOption = Annotated[str, typer.Option(help="Engine of a bundle: int8 (as shipped) or fp32.")]
FlipOption = Annotated[bool, typer.Option("--flip", help="Average with the mirrored picture, as the worker does.")]
GroupsOption = Annotated[
    Path | None,
    typer.Option(help="CSV/TSV with path, patient_group or picture_group: what the pixels cannot tell."),
]


@contextmanager
def chosen_cluster(workers: int | None, scheduler: str | None) -> Iterator[Cluster | None]:
    """The Dask cluster that --workers or --scheduler asks for; None without them. Raises StartError."""
    if workers is None and scheduler is None:
        yield None
        return
    from worker.cluster import open_cluster

    with open_cluster(workers, scheduler) as cluster:
        yield cluster
