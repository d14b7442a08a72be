"""A run's checkpoints: written atomically, read as tensors and plain values only, resumed only on the same data.

checkpoint.pt is of the last epoch, best.pt of the epoch with the best validation figure. Each is a dictionary whose
keys are the fields of `Checkpoint`, the configuration as JSON.
"""

from __future__ import annotations

import io
import pickle
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from monai_train.config import TrainConfig
from monai_train.networks.classifier import Classifier
from monai_train.networks.outputs import OutputLayout
from monai_train.networks.registry import make_classifier
from worker.errors import StartError
from worker.files import open_atomically

CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"
HEALTHY = "healthy.npy"  # the healthy volume's slices, for export

_EARLIER_CLASSES = ("glioma", "meningioma", "pituitary", "notumor")  # of runs before classes came from the manifest

Weights = dict[str, torch.Tensor]


@dataclass(slots=True)
class TrainingState:
    """The state of a run that changes during training."""

    model: Classifier
    average: Classifier  # the exponential moving average of the weights, which is validated and exported
    optimizer: torch.optim.Optimizer
    classes: tuple[str, ...]
    epoch: int = 0
    best: float = -1.0
    best_epoch: int = -1


@dataclass(frozen=True, eq=False, slots=True)
class Checkpoint:
    """The state after an epoch, with the names of its classes (data.labels.Classes) and its provenance.

    `provenance` holds the SHA-256 of data, split, healthy volume, teachers and initial weights, and the commit.
    """

    model: Weights
    average: Weights
    optimizer: dict[str, Any]
    epoch: int
    best: float
    best_epoch: int
    config: TrainConfig
    provenance: dict[str, str]
    classes: tuple[str, ...]

    def classifier(self) -> Classifier:
        """The network with the averaged weights, on the CPU, in evaluation mode."""
        layout = OutputLayout.of(self.config, len(self.classes))
        model = make_classifier(self.config.network, layout.size)
        model.load_state_dict(self.average)
        return model.eval()


def save(path: Path, state: TrainingState, config: TrainConfig, provenance: dict[str, str]) -> None:
    """Write a checkpoint of the state; see `write_checkpoint`."""
    content = Checkpoint(
        state.model.state_dict(),
        state.average.state_dict(),
        state.optimizer.state_dict(),
        state.epoch,
        state.best,
        state.best_epoch,
        config,
        provenance,
        state.classes,
    )
    write_checkpoint(path, content)


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically: after a full disk or a kill, the previous file remains. Raises OSError."""
    content = {field.name: getattr(checkpoint, field.name) for field in fields(Checkpoint)}
    buffer = io.BytesIO()  # written by us, so that a full disk is an OSError and not an error of torch
    torch.save({**content, "config": checkpoint.config.model_dump_json()}, buffer)
    with open_atomically(path) as stream:
        stream.write(buffer.getbuffer())


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU. Raises StartError if it is missing, damaged or of another version."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        content.setdefault("classes", _EARLIER_CLASSES)
        stored = {field.name: content[field.name] for field in fields(Checkpoint)}
        return Checkpoint(**{**stored, "config": TrainConfig.model_validate_json(stored["config"])})
    except OSError as error:
        raise StartError("no-checkpoint", f"cannot read {path}: {error.strerror or 'not a file'}") from error
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise StartError("other-version", f"{path} was written by another version: unknown or invalid {key}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise StartError("damaged-checkpoint", f"{path} is not a complete checkpoint of this program") from error


def resume(path: Path, state: TrainingState, config: TrainConfig, provenance: dict[str, str]) -> dict[str, str]:
    """Load the checkpoint into `state` and return its provenance.

    Raises StartError if the run has another configuration or was trained on other data.
    """
    stored = read_checkpoint(path)
    if stored.config != config:
        changed = next(key for key, value in stored.config if getattr(config, key) != value)
        raise StartError("other-config", f"{path.parent} holds a run with another {changed}: use a new --run folder")
    if stored.classes != state.classes:
        raise StartError("other-data", f"{path} was trained on other classes: use a new --run folder")
    for key in ("split_sha256", "data_sha256", "healthy_sha256", "teachers_sha256"):
        if stored.provenance.get(key, "") != provenance[key]:
            raise StartError("other-data", f"{path} was trained on other data ({key} differs): use a new --run folder")
    state.model.load_state_dict(stored.model)
    state.average.load_state_dict(stored.average)
    state.optimizer.load_state_dict(stored.optimizer)
    state.epoch, state.best, state.best_epoch = stored.epoch, stored.best, stored.best_epoch
    return stored.provenance


def current_commit() -> str:
    """The commit of the checkout this code runs from, or `unknown` outside a checkout."""
    answer = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or "unknown"
