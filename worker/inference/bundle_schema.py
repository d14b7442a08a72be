"""The schema of worker.json, formats 1 to 3 (docs/bundle.md): strict, with a line that names the fault; and who a
model is by it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from worker.dicom.series_terms import Sequence
from worker.results import CodedConcept, ModelClass, ModelIdentity

BRAIN, OTHER, T1C = "brain", "other", "T1C"
# What a header or the pixels may name; T1C is T1 with a contrast agent.
SEQUENCES = frozenset({T1C, *(str(name) for name in Sequence if name not in (Sequence.UNKNOWN, Sequence.LOCALIZER))})


def _printable(text: str) -> str:
    """Refuse what a terminal or a log would act on: escape sequences, line breaks, changes of the writing direction."""
    if not text.isprintable():
        raise ValueError("contains a character that is not printable")
    return text


Text = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_printable)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Fraction = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Aggregation(_Strict):
    """The number of deciding slices: max(top_k, ceil(top_fraction x slices))."""

    top_k: int = Field(ge=1)
    top_fraction: Fraction


class Thresholds(_Strict):
    """Minima below which a series is not assessed: probability of its best class, fraction of slices in distribution.

    `minimum_no_neoplasm` may be higher, for a class without a finding: a missed tumour is worse than no answer.
    """

    minimum_probability: Fraction
    minimum_in_distribution: Fraction
    minimum_no_neoplasm: Fraction = 0.0

    def needed(self, is_lesion: bool) -> float:
        """The minimum probability for a class to be the answer."""
        return self.minimum_probability if is_lesion else max(self.minimum_probability, self.minimum_no_neoplasm)


class OutOfDistribution(_Strict):
    """Limits beyond which a slice does not count; see `aggregate.distance_and_residual`."""

    maximum_distance: Positive
    maximum_residual: Positive


class AcceptedInput(_Strict):
    """What series the model accepts; `minimum_rows` is for the shorter side, `maximum_pixels` for rows x columns."""

    modalities: tuple[Text, ...] = Field(min_length=1, strict=False)
    minimum_slices: int = Field(ge=1)
    minimum_rows: int = Field(ge=1)
    maximum_pixels: int = Field(ge=1)


class Code(_Strict):
    """A coded concept of a class."""

    value: Text
    scheme: Text
    meaning: Text


class DescribedClass(_Strict):
    """A class as worker.json describes it."""

    name: Text
    title: Text
    neoplasm: bool
    finding: Code | None
    site: Code

    @model_validator(mode="after")
    def _neoplasm_has_a_finding(self) -> DescribedClass:
        if self.neoplasm and self.finding is None:
            raise ValueError("a class that is a neoplasm has a finding")
        return self


class _Described(_Strict):
    """What all formats have."""

    name: Text
    version: Text
    family: Text
    manufacturer: Text
    created: AwareDatetime = Field(strict=False)
    limits: Text
    classes: tuple[DescribedClass, ...] = Field(min_length=2, strict=False)
    mirror: bool = False
    out_of_distribution: OutOfDistribution
    accepted_input: AcceptedInput
    files: dict[str, Sha256]

    @model_validator(mode="after")
    def _names_are_distinct(self) -> _Described:
        if len({model_class.name for model_class in self.classes}) < len(self.classes):
            raise ValueError("two classes have the same name")
        return self

    @property
    def outputs_of_a_slice(self) -> int:
        """The number of logits."""
        return len(self.classes)


class _Trained(_Described):
    """What a bundle has that was trained here."""

    commit: Text
    training_data_sha256: Sha256


class FormatOne(_Trained):
    """Classes, of which the mean of the most tumour-like slices decides."""

    format: Literal[1]
    temperature: Positive
    aggregation: Aggregation
    thresholds: Thresholds

    @model_validator(mode="after")
    def _finding_says_neoplasm(self) -> FormatOne:
        if any(item.neoplasm == (item.finding is None) for item in self.classes):
            raise ValueError("a class has a finding exactly when it is a neoplasm")
        return self


class Outputs(_Strict):
    """The outputs beside the classes: which sequence, and what region of the body."""

    sequences: tuple[Text, ...] = Field(min_length=1, strict=False)
    regions: tuple[Text, ...] = Field(min_length=1, strict=False)

    @model_validator(mode="after")
    def _names_are_known(self) -> Outputs:
        for names, required in ((self.sequences, OTHER), (self.regions, BRAIN)):
            if len(set(names)) < len(names):
                raise ValueError("two outputs have the same name")
            if required not in names:
                raise ValueError(f"the output {required!r} is missing")
        if unknown := sorted(set(self.sequences) - SEQUENCES):
            raise ValueError(f"unknown sequence {unknown[0]!r}; known are {', '.join(sorted(SEQUENCES))}")
        return self


class Rule(_Strict):
    """How a series of a sequence is answered; see `series_rule.SequenceRule`."""

    supported: bool
    planes: tuple[Literal["axial", "coronal", "sagittal"], ...] = Field(strict=False)
    slope: Positive
    offset: Finite
    per_slices: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    lesion_from: Fraction
    no_lesion_to: Fraction
    kind_temperature: Positive
    minimum_kind: Fraction
    reliable_kinds: tuple[Text, ...] = Field(strict=False)

    @model_validator(mode="after")
    def _thresholds_are_ordered(self) -> Rule:
        if self.no_lesion_to > self.lesion_from:
            raise ValueError("no_lesion_to exceeds lesion_from")
        return self


class SeriesSection(_Strict):
    """Limits of the series rule; see `series_rule.SeriesLimits`."""

    neighbourhood_mm: Positive
    minimum_brain: Fraction
    minimum_brain_slices: Fraction
    minimum_in_distribution: Fraction
    minimum_sequence: Fraction
    contradiction: Fraction


class StudySection(_Strict):
    """How the answers for the series of a study count together; see `study.fusion.StudyRule`."""

    weights: dict[Text, Annotated[float, Field(ge=0.01, le=100)]]
    most_certain: Annotated[float, Field(gt=0.5, lt=1)]
    lesion_from: Fraction
    no_lesion_to: Fraction
    minimum_kind: Fraction

    @model_validator(mode="after")
    def _thresholds_are_ordered(self) -> StudySection:
        if self.no_lesion_to >= self.lesion_from:
            raise ValueError("no_lesion_to is not below lesion_from")
        return self


class FormatTwo(_Trained):
    """Classes, sequences and regions; lesion or none first, calibrated for each sequence, then the kind."""

    format: Literal[2]
    outputs: Outputs
    undetermined: DescribedClass
    decision: dict[str, Rule]
    series: SeriesSection
    study: StudySection | None = None

    @property
    def outputs_of_a_slice(self) -> int:
        return len(self.classes) + len(self.outputs.sequences) + len(self.outputs.regions)

    @model_validator(mode="after")
    def _classes_fit(self) -> FormatTwo:
        if sum(item.finding is None for item in self.classes) != 1:
            raise ValueError("exactly one class has no finding")
        if self.undetermined.finding is None:
            raise ValueError("the class for an undetermined kind has a finding")
        if self.undetermined.name in {item.name for item in self.classes}:
            raise ValueError(f"{self.undetermined.name!r} names a class and the undetermined kind")
        return self

    @model_validator(mode="after")
    def _rules_fit(self) -> FormatTwo:
        for name in self.outputs.sequences:
            if name not in self.decision:
                raise ValueError(f"decision lacks the rule for the sequence {name!r}")
        lesions = {item.name for item in self.classes if item.finding is not None}
        for name, rule in self.decision.items():
            if name not in self.outputs.sequences:
                raise ValueError(f"decision has a rule for {_printed(name)}, which is no sequence of the outputs")
            if unknown := [kind for kind in rule.reliable_kinds if kind not in lesions]:
                raise ValueError(f"reliable_kinds of {name} names {unknown[0]!r}, which is no class with a finding")
        if unknown := sorted(set(self.study.weights if self.study else ()) - set(self.outputs.sequences)):
            raise ValueError(f"study has a weight for {_printed(unknown[0])}, which is no sequence of the outputs")
        return self


class Source(_Strict):
    """The file that a model was imported from."""

    file: Text
    sha256: Sha256
    kind: Literal["state_dict", "torchscript", "onnx"]


class Input(_Strict):
    """What the network reads at once: a slice or the whole volume, as a tensor of this shape, channels first."""

    kind: Literal["slices", "volume"]
    shape: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(min_length=3, max_length=4, strict=False)

    @model_validator(mode="after")
    def _dimensions_fit(self) -> Input:
        if len(self.shape) != (3 if self.kind == "slices" else 4):
            raise ValueError("the shape is [channels, x, y] of slices and [channels, x, y, z] of a volume")
        return self


class FormatThree(_Described):
    """A classifier that was trained elsewhere: classes of any kind, prepared by MONAI's transforms.

    `presence`: what a report calls present or absent; see `results.ModelIdentity`.
    """

    format: Literal[3]
    source: Source
    input: Input
    presence: Code | None = None
    temperature: Positive
    aggregation: Aggregation
    thresholds: Thresholds

    @model_validator(mode="after")
    def _is_sound(self) -> FormatThree:
        if all(item.finding is None for item in self.classes):
            raise ValueError("no class has a finding")
        if self.mirror:
            raise ValueError("mirror is for the worker's own preprocessing")
        return self


def _printed(name: str) -> str:
    return ascii(name[:200])


Described = FormatOne | FormatTwo | FormatThree
_FORMATS: dict[Any, type[Described]] = {1: FormatOne, 2: FormatTwo, 3: FormatThree}


def describe(values: Any) -> Described:
    """Validate the content of worker.json. Raises ValueError with the place and the fault."""
    number = values.get("format") if isinstance(values, dict) else None
    schema = _FORMATS.get(number) if type(number) is int else None
    if schema is None:
        raise ValueError("format: must be 1, 2 or 3")
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(f"{'.'.join(str(key) for key in first['loc'])}: {first['msg']}") from None


def identity_of(described: Described, sha256: str) -> ModelIdentity:
    """The identity of the bundle whose worker.json has this SHA-256."""
    rule = _decision_line(described) if isinstance(described, FormatTwo) else _top_slices_line(described)
    weights = next(
        described.files[name]
        for name in ("models/model.safetensors", "models/model_fp32.bin")
        if name in described.files
    )
    return ModelIdentity(
        name=described.name,
        version=described.version,
        manufacturer=described.manufacturer,
        family=described.family,
        sha256=sha256,
        classes=tuple(map(_model_class, described.classes)),
        parameters=f"weights SHA-256 {weights}; {rule}",
        limits=described.limits,
        undetermined=_model_class(described.undetermined) if isinstance(described, FormatTwo) else None,
        presence=_code(described.presence) if isinstance(described, FormatThree) and described.presence else None,
    )


def _model_class(item: DescribedClass) -> ModelClass:
    finding = _code(item.finding) if item.finding else None
    return ModelClass(item.name, item.title, item.neoplasm, finding, _code(item.site))


def _top_slices_line(described: FormatOne | FormatThree) -> str:
    if isinstance(described, FormatThree) and described.input.kind == "volume":
        combined = "the volume at once"
    else:
        which = "most tumour-like slices" if isinstance(described, FormatOne) else "slices likeliest to show a finding"
        top = described.aggregation
        combined = f"mean of the max({top.top_k}, {top.top_fraction:g} x slices) {which}"
    absent = "neoplasm" if isinstance(described, FormatOne) else "finding"
    return (
        f"temperature {described.temperature:g}; {combined}; "
        f"minimum probability {described.thresholds.needed(True):g}, "
        f"of no {absent} {described.thresholds.needed(False):g}; "
        f"minimum slices in distribution {described.thresholds.minimum_in_distribution:g}"
    )


def _decision_line(described: FormatTwo) -> str:
    series = described.series
    rules = [
        f"{name} ({', '.join(rule.planes)}): lesion from {rule.lesion_from:g}, none to {rule.no_lesion_to:g}, "
        f"kind {' or '.join(rule.reliable_kinds) or 'none'} from {rule.minimum_kind:g}"
        for name, rule in described.decision.items()
        if rule.supported
    ]
    return (
        f"largest mean of the slices within {series.neighbourhood_mm:g} mm; {'; '.join(rules) or 'no sequence'}; "
        f"brain from {series.minimum_brain:g} on {series.minimum_brain_slices:g} of the slices; "
        f"minimum slices in distribution {series.minimum_in_distribution:g}"
    )


def _code(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, code.meaning)
