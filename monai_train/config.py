"""TrainConfig: everything a training run depends on, validated at start and stored in every checkpoint."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.errors import StartError


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class BatchShares(_Strict):
    """Composition of a batch; the shares are normalised to 1.

    Contrast is confounded with class in the public data: tumours are T1c, heads without a tumour are T2 and FLAIR.
    Synthetic images break this confounding, and each kind has a control of the other class, so that the seam of a
    pasted region carries no information.
    """

    tumour: float = Field(0.42, ge=0)
    """Pictures with a tumour, unchanged."""
    mirrored_tumour: float = Field(0.05, ge=0)
    """The tumour copied to the other side, too: asymmetry alone is no evidence."""
    pasted_lesion: float = Field(0.10, ge=0)
    """A training patient's tumour in a head without a tumour."""
    simulated_lesion: float = Field(0.08, ge=0)
    """A bright, dark or ring-like mass in a head of any contrast."""
    no_tumour: float = Field(0.23, ge=0)
    """Pictures without a tumour, unchanged."""
    tumour_removed: float = Field(0.08, ge=0)
    """The other hemisphere mirrored over the tumour."""
    pasted_tissue: float = Field(0.04, ge=0)
    """The control of pasted_lesion: ordinary tissue with the same seam."""
    masked_lesion: float = Field(0.0, ge=0)
    """A tumour by its mask in a head of the same sequence without a tumour."""
    masked_tissue: float = Field(0.0, ge=0)
    """The control of masked_lesion: tissue of a head without a tumour."""
    unlabelled: float = Field(0.0, ge=0)
    """Pictures without a class, for sequence and region: other body parts."""


class Augmentation(_Strict):
    """Probabilities and ranges of the random transforms, used in training only."""

    flip: float = Field(0.5, ge=0, le=1)
    """Probability of mirroring left and right."""
    rotate_degrees: float = Field(18, ge=0, le=180)
    """Largest rotation, either way."""
    scale: float = Field(0.18, ge=0, lt=1)
    """Largest change of size, as a share."""
    shift: float = Field(0.06, ge=0, lt=1)
    """Largest shift, as a share of the picture."""
    gamma: float = Field(0.5, ge=0)
    """Natural logarithm of the strongest exponent of the intensities."""
    bias_field: float = Field(0.35, ge=0)
    """Natural logarithm of the strongest gain of a slow change of brightness."""
    invert: float = Field(0.12, ge=0, le=1)
    """Probability of inverting the intensities."""
    remap: float = Field(0.18, ge=0, le=1)
    """Probability of a random smooth curve of intensity: another contrast."""
    noise: float = Field(0.06, ge=0)
    """Strongest standard deviation of noise, of a range of 1."""
    blur: float = Field(0.2, ge=0, le=1)
    """Probability of blurring."""
    low_resolution: float = Field(0.15, ge=0, le=1)
    """Probability of sampling down and up again."""


class TrainConfig(_Strict):
    """Configuration of a training run. It never trains on `external`: data sets, or `data set:diagnosis`."""

    network: str = "resnet18-slim"
    """Name in monai_train/networks/registry.py, as `--network` takes it."""
    epochs: int = Field(40, ge=1)
    """Epochs; an epoch is `samples_per_epoch`, not once through the pictures."""
    samples_per_epoch: int = Field(4000, ge=1)
    """Samples drawn in an epoch, whatever the number of pictures: `--samples`."""
    batch: int = Field(64, ge=2)
    """Samples in a batch, of each device."""
    learning_rate: float = Field(2e-3, gt=0)
    """Highest learning rate of the one-cycle schedule (AdamW)."""
    weight_decay: float = Field(0.05, ge=0)
    """Weight decay of AdamW."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    """Label smoothing of the cross entropy."""
    map_loss: float = Field(0.0, ge=0)
    """Weight of the loss that draws the class's activation map to the marked tumour."""
    sampling: Literal["patients", "classes", "pictures", "strata"] = "patients"
    """What is sampled uniformly: monai_train/training/sampling.py."""
    sampling_levels: int = Field(6, ge=1)
    """Equal parts of a series that sampling "strata" draws equally often; 1: the slice level does not count."""
    weighted_loss: bool = False
    """Weight each class by the inverse of its training pictures: for sampling "pictures"."""
    sequence_loss: float = Field(0.0, ge=0)
    """Above 0, the network learns the sequence, too (bundle format 2)."""
    region_loss: float = Field(0.0, ge=0)
    """Above 0, the network learns the region, too."""
    distillation: float = Field(1.0, ge=0)
    """Weight of the distillation loss, if `train` is given teachers."""
    ema_decay: float = Field(0.995, ge=0, lt=1)
    """Decay of the average of the weights, which is what is validated and exported."""
    warm_up: float = Field(0.15, gt=0, lt=1)
    """Share of the steps in which the one-cycle learning rate rises."""
    patience: int | None = Field(None, ge=1)
    """Epochs without a better validation figure before stopping; null: never."""
    mixed_precision: bool = True
    """Compute in bfloat16 where that is safe and the processor has it."""
    seed: int = 7
    """Seed of weights, samples and transforms."""
    threads: int = Field(2, ge=1)
    """Threads of the processor."""
    device: str = "cpu"
    """cpu, cuda or mps: `--device`."""
    external: tuple[str, ...] = ("navoneel",)
    """Data sets, or `data set:diagnosis`, that are never trained on but measured."""
    healthy_share: float = Field(0.25, ge=0, le=1)
    """Share of the healthy volume among heads without a tumour, if it is given."""
    test_share: float = Field(0.2, gt=0, lt=1)
    """Share of the patients that is kept out for the test."""
    validation_share: float = Field(0.12, gt=0, lt=1)
    """Share of the patients by which the best epoch is chosen."""
    shares: BatchShares = BatchShares()
    """Composition of a batch, below."""
    augmentation: Augmentation = Augmentation()
    """Random transforms, below."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of training: its key as `--set` takes it, its default as JSON, and its meaning."""

    key: str
    default: str
    meaning: str


def settings(model: type[BaseModel] = TrainConfig, prefix: str = "") -> Iterator[Setting]:
    """Every setting, those of its sections as `section.key`."""
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from settings(type(field.default), f"{prefix}{name}.")
        else:
            yield Setting(f"{prefix}{name}", json.dumps(field.default), " ".join((field.description or "").split()))


class TrackerName(StrEnum):
    """What `train --tracker` chooses from."""

    MLFLOW = "mlflow"
    WANDB = "wandb"


class TrialSampler(StrEnum):
    """How a hyperparameter search chooses its next trial."""

    TPE = "tpe"
    GRID = "grid"


def read_config(path: Path | None, assigned: Sequence[str] | None = None, **overrides: object) -> TrainConfig:
    """Read the configuration of a JSON file (without a file, the defaults) with the overrides that are not None.

    `assigned` are KEY=VALUE, as `--set` takes them; they take precedence over the file, and overrides over them.
    Raises StartError with the key of an invalid value.
    """
    try:
        stored = json.loads(path.read_text()) if path else {}
        given = {key: value for key, value in overrides.items() if value is not None}
        return TrainConfig.model_validate({**_assign(stored, assigned or ()), **given})
    except OSError as error:
        raise StartError("unreadable-config", f"cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise StartError("invalid-config", f"{path} is not JSON: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise StartError("invalid-config", f"training configuration, {key}: {first['msg']}") from error


def _assign(stored: dict[str, Any], assigned: Sequence[str]) -> dict[str, Any]:
    """The stored keys with KEY=VALUE set, where KEY may be section.key and VALUE is JSON, or else a text."""
    content: dict[str, Any] = json.loads(json.dumps(stored))
    known = [setting.key for setting in settings()]
    for text in assigned:
        key, equals, value = text.partition("=")
        if not equals or key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            advice = f"did you mean {near[0]}?" if near else "monai-train settings lists every key"
            raise StartError("invalid-config", f"--set {text}: it takes KEY=VALUE, and '{key}' is no key: {advice}")
        *sections, name = key.split(".")
        section = content
        for each in sections:
            section = section.setdefault(each, {})
        try:
            section[name] = json.loads(value)
        except json.JSONDecodeError:
            section[name] = value
    return content
