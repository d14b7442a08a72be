"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataOption = Annotated[Path, typer.Option("--data", help="Folder that `convert` wrote, or its manifest.csv.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="JSON file of TrainConfig keys; the options below take precedence.")
]
NetworkOption = Annotated[str | None, typer.Option(help="resnet18-slim, resnet18, densenet121, ...")]
EpochsOption = Annotated[int | None, typer.Option(min=1)]
RateOption = Annotated[float | None, typer.Option("--learning-rate")]
SeedOption = Annotated[int | None, typer.Option()]
ThreadsOption = Annotated[int | None, typer.Option(min=1)]
PrecisionOption = Annotated[str, typer.Option(help="Engine of a bundle: int8 (as shipped) or fp32.")]
FlipOption = Annotated[bool, typer.Option("--flip", help="Average with the mirrored picture, as the worker does.")]
GroupsOption = Annotated[
    Path | None,
    typer.Option(help="CSV/TSV with path, patient_group or picture_group: what the pixels cannot tell."),
]
