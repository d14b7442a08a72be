"""The frozen values that pass between stages, independent of files, database sessions and sockets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class ResultStatus(StrEnum):
    """The status of a result; a series without a result is pending, refused or failed."""

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
    """A class of a model, with the codes of its report; both are defined in the bundle (`worker.json`).

    `finding` is None for the class that means no neoplasm.
    """

    name: str
    title: str
    neoplasm: bool
    finding: CodedConcept | None
    site: CodedConcept


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What a bundle says it is: all that Contributing Equipment and TID 4019 Algorithm Identification need."""

    name: str
    version: str
    manufacturer: str
    family: str
    sha256: str  # of the bundle: 64 hex digits
    classes: tuple[ModelClass, ...]
    parameters: str  # single line for 111002 DCM Algorithm Parameters: thresholds and aggregation
    limits: str  # a sentence of known limits, for the comment of every report

    def class_named(self, name: str) -> ModelClass:
        """The class of that name; KeyError when the model has none."""
        for model_class in self.classes:
            if model_class.name == name:
                return model_class
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Activation:
    """Where in a slice the model saw its class: a coarse map, and the square of the slice that it covers.

    `rows` [h][w] in 0-255, relative to the slice's own peak. `top` and `height` are fractions of the displayed slice's
    height, `left` and `width` of its width; the square may extend beyond the slice.
    """

    rows: tuple[tuple[int, ...], ...]
    top: float
    left: float
    height: float
    width: float


@dataclass(frozen=True, slots=True)
class SliceResult:
    """The model's answer for a slice.

    `frame_number` counts from 1 and is None for a single-frame instance. `position_mm` is the distance along the
    stack normal, None where the source has no geometry. `in_distribution` is False where the slice does not
    resemble the training data; such a slice does not count in the series result. `distance` from the training data is
    a multiple of the model's limit; None where it is not finite, or was not recorded.
    """

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    position_mm: float | None
    probabilities: tuple[float, ...]  # in the order of ModelIdentity.classes, calibrated, sum 1
    in_distribution: bool
    deciding: bool
    activation: Activation | None = (
        None  # of the series' class; None but for the deciding slices of a classified series
    )
    distance: float | None = None


@dataclass(frozen=True, slots=True)
class SeriesResult:
    """The result of a model for a series: a class with its calibrated probability, or the reason for "not assessed".

    `label`, `probability` and `probabilities` are None / empty when `status` is NOT_ASSESSED and the slices gave no
    usable answer; `reason` is a stable word and `detail` a sentence, both None when CLASSIFIED. `missing` is a phrase:
    what is known to be missing from the images that were classified.
    """

    status: ResultStatus
    label: str | None
    probability: float | None
    probabilities: Mapping[str, float]
    reason: str | None
    detail: str | None
    slices: tuple[SliceResult, ...]
    missing: str | None = None
