"""What `export` reads of a run: its network, its split, the pictures of its training and validation parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from monai_train.config import TrainConfig
from monai_train.data.dataset import Pictures, load_pictures, read_preprocessing
from monai_train.data.manifest import deduplicate, read_manifest
from monai_train.data.patients import PREFIX, SplitRole, earlier_pictures, split_sha256
from monai_train.evaluation.evaluate import TrainingSplit, common_classes, split_of
from monai_train.networks.classifier import Classifier
from monai_train.networks.outputs import OutputLayout
from monai_train.networks.registry import find_served
from monai_train.training.checkpoint import BEST, HEALTHY, Checkpoint, read_checkpoint
from monai_train.training.weight_averaging import average_weights
from worker.errors import StartError


@dataclass(frozen=True, eq=False, slots=True)
class RunInputs:
    """A run's best checkpoint and the deduplicated pictures of its training and validation parts."""

    config: TrainConfig
    split: TrainingSplit
    provenance: dict[str, str]
    training: Pictures
    validation: Pictures
    model: Classifier
    learned: tuple[
        str, ...
    ]  # the beginnings of the hashes of what the weights learned from: both parts, copies included, and before
    healthy: torch.Tensor  # uint8 [m, 1, s, s]: the slices of the healthy volume that training used; m may be 0

    @property
    def layout(self) -> OutputLayout:
        """What the network's outputs mean."""
        return OutputLayout.of(self.config, len(self.validation.classes))


def read_run(run: Path, data: Path, best: Checkpoint | None = None) -> RunInputs:
    """Read a run and its data; `best` is its best checkpoint where that was read already.

    Raises StartError for a network that is not served and for other data than the run's.
    """
    best = best or read_checkpoint(run / BEST)
    find_served(best.config.network)
    rows = read_manifest(data)
    split = split_of(best)
    roles = split.roles(rows)
    if split_sha256(rows, roles) != split.split_sha256:
        raise StartError("other-data", f"{data} does not hold the data and groups that {run} was trained on")
    pictures = load_pictures(data, rows, read_preprocessing(), classes=common_classes([best]))
    training, validation = (
        pictures.select(deduplicate(rows, [i for i, role in enumerate(roles) if role is part]))
        for part in (SplitRole.TRAIN, SplitRole.VALIDATION)
    )
    parts = (SplitRole.TRAIN, SplitRole.VALIDATION)
    learned = {row.source_sha256[:PREFIX] for row, role in zip(rows, roles, strict=True) if role in parts}
    learned |= set(earlier_pictures(run / BEST).split())
    healthy = torch.empty((0, *pictures.pixels.shape[1:]), dtype=torch.uint8)
    if (run / HEALTHY).exists():
        healthy = torch.from_numpy(np.load(run / HEALTHY))
    return RunInputs(
        best.config, split, best.provenance, training, validation, best.classifier(), tuple(sorted(learned)), healthy
    )


def average_runs(inputs: RunInputs, run: Path, others: Sequence[Path], console: Console) -> RunInputs:
    """Replace the run's weights by the mean of its and the others'. Raises StartError for runs that do not match."""
    checkpoints = [read_checkpoint(folder / BEST) for folder in others]
    for other, checkpoint in zip(others, checkpoints, strict=True):
        split = checkpoint.provenance["split_sha256"]
        if checkpoint.config.network != inputs.config.network or split != inputs.split.split_sha256:
            raise StartError("other-run", f"{other} holds another network or split than {run}: they cannot be averaged")
    own = {key: value.clone() for key, value in inputs.model.state_dict().items()}  # the mean is loaded over them
    weights = [own, *(checkpoint.average for checkpoint in checkpoints)]
    *of_runs, of_mean = average_weights(inputs.model, weights, inputs.training, inputs.validation)
    shown = ", ".join(f"{figure:.4f}" for figure in of_runs)
    console.print(f"validation balanced accuracy of the runs {shown}, of their mean {of_mean:.4f}")
    return replace(inputs, provenance={**inputs.provenance, "averaged_runs": str(len(weights))})
