"""The frozen values that pass between stages; they know nothing of files, sessions or sockets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class ResultStatus(StrEnum):
    """What a model said of a series; a series without one is pending, refused or failed."""

    CLASSIFIED = "classified"
    NOT_ASSESSED = "not-assessed"


@dataclass(frozen=True, slots=True)
class CodedConcept:
    """A coded concept: PS3.3 Section 8."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True)
class ModelClass:
    """One class of a model, with the codes its report carries; they live in the bundle (`worker.json`).

    `finding` is None for the class that says no neoplasm was found.
    """

    name: str
    title: str
    neoplasm: bool
    finding: CodedConcept | None
    site: CodedConcept


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model spoke: enough to write Contributing Equipment and TID 4019 Algorithm Identification."""

    name: str
    version: str
    manufacturer: str
    family: str
    sha256: str  # of the bundle: 64 hex digits
    classes: tuple[ModelClass, ...]
    parameters: str  # one line for 111002 DCM Algorithm Parameters: thresholds and aggregation
    limits: str  # one sentence of known limits, for the comment in every report

    def class_named(self, name: str) -> ModelClass:
        """The class of that name; KeyError when the model has none."""
        for one in self.classes:
            if one.name == name:
                return one
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Activation:
    """Where in a slice the model saw its class: a coarse map, and the square of the slice that it covers.

    `rows` [h][w] in 0-255, parts of the slice's own peak. `top` and `height` are parts of the displayed slice's
    height, `left` and `width` of its width; the square may reach beyond the slice.
    """

    rows: tuple[tuple[int, ...], ...]
    top: float
    left: float
    height: float
    width: float


@dataclass(frozen=True, slots=True)
class SliceResult:
    """The model's answer for one slice.

    `frame_number` counts from 1 and is None for a single-frame instance. `position_mm` is the distance along the
    stack normal, None where the source has no geometry. `in_distribution` is False where the slice looks unlike
    the training data; such a slice has no say in the series result. `distance` says how unlike, as a multiple of the
    model's limit; None where it is no number, or was not kept.
    """

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    position_mm: float | None
    probabilities: tuple[float, ...]  # in the order of ModelIdentity.classes, calibrated, sum 1
    in_distribution: bool
    deciding: bool
    activation: Activation | None = None  # of the series' class; only a deciding slice of a classified series has one
    distance: float | None = None


@dataclass(frozen=True, slots=True)
class SeriesResult:
    """What one model says of one series: a class with its calibrated probability, or why there is none.

    `label`, `probability` and `probabilities` are None / empty when `status` is NOT_ASSESSED and the slices gave no
    usable answer; `reason` is a stable word and `detail` a sentence, both None when CLASSIFIED. `missing` is a phrase:
    what is known to be missing of the images that were looked at.
    """

    status: ResultStatus
    label: str | None
    probability: float | None
    probabilities: Mapping[str, float]
    reason: str | None
    detail: str | None
    slices: tuple[SliceResult, ...]
    missing: str | None = None
