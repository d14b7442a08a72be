"""TrainConfig: everything a training run depends on, validated at start and stored in every checkpoint."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.errors import StartError


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BatchShares(_Strict):
    """Composition of a batch; the shares are normalised to 1.

    Contrast is confounded with class in the public data: tumours are T1c, heads without a tumour are T2 and FLAIR.
    Synthetic images break this confounding, and each kind has a control of the other class, so that the seam of a
    pasted region carries no information.
    """

    tumour: float = Field(0.42, ge=0)  # unchanged
    mirrored_tumour: float = Field(
        0.05, ge=0
    )  # the tumour copied to the other side, too: asymmetry alone is no evidence
    pasted_lesion: float = Field(0.10, ge=0)  # a training patient's tumour in a head without a tumour
    simulated_lesion: float = Field(0.08, ge=0)  # a bright, dark or ring-like mass in a head of any contrast
    no_tumour: float = Field(0.23, ge=0)  # unchanged
    tumour_removed: float = Field(0.08, ge=0)  # the other hemisphere mirrored over the tumour
    pasted_tissue: float = Field(0.04, ge=0)  # the control of pasted_lesion: ordinary tissue with the same seam
    masked_lesion: float = Field(0.0, ge=0)  # a tumour by its mask in a head of the same sequence without a tumour
    masked_tissue: float = Field(0.0, ge=0)  # the control of masked_lesion: tissue of a head without a tumour
    unlabelled: float = Field(0.0, ge=0)  # pictures without a class, for sequence and region: other body parts


class Augmentation(_Strict):
    """Probabilities and ranges of the random transforms, used in training only."""

    flip: float = Field(0.5, ge=0, le=1)
    rotate_degrees: float = Field(18, ge=0, le=180)
    scale: float = Field(0.18, ge=0, lt=1)
    shift: float = Field(0.06, ge=0, lt=1)
    gamma: float = Field(0.5, ge=0)  # natural logarithm of the strongest exponent
    bias_field: float = Field(0.35, ge=0)  # natural logarithm of the strongest gain
    invert: float = Field(0.12, ge=0, le=1)
    remap: float = Field(0.18, ge=0, le=1)  # a random smooth curve of intensity: another contrast
    noise: float = Field(0.06, ge=0)  # strongest standard deviation, of a range of 1
    blur: float = Field(0.2, ge=0, le=1)
    low_resolution: float = Field(0.15, ge=0, le=1)


class TrainConfig(_Strict):
    """Configuration of a training run. It never trains on `external`: data sets, or `data set:diagnosis`."""

    network: str = "resnet18-slim"
    epochs: int = Field(40, ge=1)
    samples_per_epoch: int = Field(4000, ge=1)
    batch: int = Field(64, ge=2)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    map_loss: float = Field(0.0, ge=0)  # weight of the loss that draws the class's activation map to the marked tumour
    sampling: Literal["patients", "classes", "pictures", "strata"] = (
        "patients"  # what is sampled uniformly: monai_train/training/sampling.py
    )
    weighted_loss: bool = False  # weight each class by the inverse of its training pictures: for sampling "pictures"
    sequence_loss: float = Field(0.0, ge=0)  # above 0, the network learns the sequence, too (bundle format 2)
    region_loss: float = Field(0.0, ge=0)  # above 0, the network learns the region, too
    distillation: float = Field(1.0, ge=0)  # weight of the distillation loss, if `train` is given teachers
    ema_decay: float = Field(0.995, ge=0, lt=1)
    warm_up: float = Field(0.15, gt=0, lt=1)  # share of the steps in which the one-cycle learning rate rises
    patience: int | None = Field(None, ge=1)  # epochs without a better validation figure before stopping
    mixed_precision: bool = True
    seed: int = 7
    threads: int = Field(2, ge=1)
    device: str = "cpu"
    external: tuple[str, ...] = ("navoneel",)
    healthy_share: float = Field(0.25, ge=0, le=1)  # of heads without a tumour, if a healthy volume is given
    test_share: float = Field(0.2, gt=0, lt=1)
    validation_share: float = Field(0.12, gt=0, lt=1)
    shares: BatchShares = BatchShares()
    augmentation: Augmentation = Augmentation()


class TrialSampler(StrEnum):
    """How a hyperparameter search chooses its next trial."""

    TPE = "tpe"
    GRID = "grid"


def read_config(path: Path | None, **overrides: object) -> TrainConfig:
    """Read the configuration of a JSON file (without a file, the defaults) with the overrides that are not None.

    Raises StartError with the key of an invalid value.
    """
    try:
        stored = json.loads(path.read_text()) if path else {}
        given = {key: value for key, value in overrides.items() if value is not None}
        return TrainConfig.model_validate({**stored, **given})
    except OSError as error:
        raise StartError("unreadable-config", f"cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise StartError("invalid-config", f"{path} is not JSON: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise StartError("invalid-config", f"training configuration, {key}: {first['msg']}") from error
