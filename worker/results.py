"""The frozen values that pass between stages, independent of files, database sessions and sockets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    `finding` is None for the class that means that nothing is there. A class with a finding is a lesion; a lesion that
    is no neoplasm, such as an infection, has a finding too.
    """

    name: str
    title: str
    neoplasm: bool
    finding: CodedConcept | None
    site: CodedConcept

    @property
    def is_lesion(self) -> bool:
        return self.finding is not None


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
    # The label of a lesion whose kind is not reliable: no class, its probability is that of any lesion.
    undetermined: ModelClass | None = None
    # What a report calls present or absent, where the bundle names it.
    presence: CodedConcept | None = None

    @property
    def names_neoplasms(self) -> bool:
        """A class is a neoplasm."""
        return any(item.neoplasm for item in self.labels)

    @property
    def labels(self) -> tuple[ModelClass, ...]:
        """Every label that a result may have: the classes, and `undetermined` where the model has it."""
        return (*self.classes, self.undetermined) if self.undetermined else self.classes

    def class_named(self, name: str) -> ModelClass:
        """The label of that name; KeyError when the model has none."""
        for model_class in self.labels:
            if model_class.name == name:
                return model_class
        raise KeyError(name)

    def probability_of(self, label: ModelClass, probabilities: Sequence[float]) -> float:
        """The probability of a label: `probabilities` are a slice's, in the order of the classes."""
        if label in self.classes:
            return probabilities[self.classes.index(label)]
        return sum(value for value, item in zip(probabilities, self.classes, strict=True) if item.is_lesion)


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
class AnswerBasis:
    """On what the answer for a series rests; of a model whose bundle has format 1 there is none.

    `sequence` is the sequence by which the series was judged (T1C: T1 with a contrast agent) and `sequence_source` what
    named it, "header" or "pixels"; None where it was not told. `plane` is that of the slices that were judged, None
    without geometry; a series that was `reformatted` was acquired otherwise. `slices_with_say` of `slices` show a brain
    like those of the training data. `lesion_probability` is None where it was not computed.
    """

    sequence: str | None
    sequence_source: str | None
    plane: str | None
    reformatted: bool
    slices: int
    slices_with_say: int
    lesion_probability: float | None


@dataclass(frozen=True, slots=True)
class SeriesResult:
    """The result of a model for a series: a class with its calibrated probability, or the reason for "not assessed".

    `label`, `probability` and `probabilities` are None / empty when `status` is NOT_ASSESSED and the slices gave no
    usable answer; `reason` is a stable word and `detail` a sentence, both None when CLASSIFIED. `missing` is a phrase:
    what is known to be missing from the images that were classified. `series_type`: what the series is by its headers,
    for a person; "T1, with contrast agent, axial". `probabilities` has no entry for `ModelIdentity.undetermined`.
    """

    status: ResultStatus
    label: str | None
    probability: float | None
    probabilities: Mapping[str, float]
    reason: str | None
    detail: str | None
    slices: tuple[SliceResult, ...]
    missing: str | None = None
    series_type: str | None = None
    basis: AnswerBasis | None = None


@dataclass(frozen=True, slots=True)
class SeriesAnswer:
    """A series as its study's answer sees it: what it was judged as, and its label or why it is not assessed.

    `series` is its Series Instance UID, `number` its Series Number, None where it has none. `sequence` and `plane` as
    in AnswerBasis. `label` is None, and `reason` not, where the series is not assessed. `lesion_probability` is that of
    any lesion, `probabilities` are those of the classes.
    """

    series: str
    number: int | None
    sequence: str | None
    plane: str | None
    label: str | None
    reason: str | None
    lesion_probability: float | None
    probabilities: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Contribution:
    """How a series counted in the answer for its study: `weight` is its share of all, 0 where it is not assessed.

    `contradicts`: its answer is another than the study's, or, where the series disagree, than another series'.
    """

    answer: SeriesAnswer
    weight: float
    contradicts: bool


@dataclass(frozen=True, slots=True)
class StudyResult:
    """The answer for a study: a label as of SeriesResult, or the reason for "not assessed".

    `deciding` is the Series Instance UID of the series that speaks most clearly for the answer, None where no series is
    assessed. `contradiction` is a sentence that names the series which contradict each other, None where none do.
    """

    status: ResultStatus
    label: str | None
    probability: float | None
    probabilities: Mapping[str, float]
    lesion_probability: float | None
    reason: str | None
    detail: str | None
    contradiction: str | None
    contributions: tuple[Contribution, ...]  # in the order of the series' numbers
    deciding: str | None


@dataclass(frozen=True, slots=True)
class ReportedSeries:
    """A series as the report of its study has it: its contribution, what its headers say, and what was read of it.

    `contrast_agent` as dicom.series_terms.Contrast, None where it was not read. `images`: (SOP Class UID, SOP Instance
    UID) of each image that was read, none of a series without a result. `key_slices`: the deciding slices of a series
    that is assessed, with their numbers of `slices`, from 1.
    """

    contribution: Contribution
    description: str
    contrast_agent: str | None
    images: tuple[tuple[str, str], ...]
    slices: int
    key_slices: tuple[tuple[int, SliceResult], ...]

    @property
    def title(self) -> str:
        """Its number and its description, as at the scanner: "5: AX T1 POST"."""
        number = "without a number" if self.contribution.answer.number is None else str(self.contribution.answer.number)
        return f"{number}: {self.description}" if self.description else number


@dataclass(frozen=True, slots=True)
class ReportedStudy:
    """What the report of a study is made of. `rule`: a line on how its series were weighed.

    `series` in the order of the result's contributions.
    """

    study_instance_uid: str
    result: StudyResult
    series: tuple[ReportedSeries, ...]
    rule: str

    @property
    def deciding(self) -> ReportedSeries | None:
        """The series that speaks most clearly for the answer; None where no series is assessed."""
        return next((item for item in self.series if item.contribution.answer.series == self.result.deciding), None)
