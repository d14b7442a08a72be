"""Choose the models of a series, and whether it is urgent, by the `[[route]]` rules of config.toml. Pure.

Rules are evaluated in order; the first that matches decides. A rule that chooses models matches a series when every
image meets all its conditions; a rule that refuses, when any image does: each errs on the side of not classifying.
Rules with `urgent` have the jobs of a series, and of the rest of its study, done first; a rule that only does that
matches when any image does, and those after it decide.
A condition sees an attribute of the dataset's top level, or else of its functional groups, as text, at most 16 values
of 256 characters. Frames of a file that differ in an attribute that rules need count as separate images here.
`SeriesType.sequence` and the other fields of the series type are tested of the series as a whole, as is
`Sender.ae_title`: the calling AE titles of the associations that brought it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from worker.dicom.series_terms import ROUTED_FIELDS

if TYPE_CHECKING:
    from worker.dicom.series_type import SeriesType

MODEL_NOT_ACTIVE = "model-not-active"
ATTRIBUTES_KEY = "route"  # the key of an instance's attributes that holds what `record_variants` returns
_TEXT = {"AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UT"}
_NUMBERS = {"DS", "IS", "FD", "FL", "US", "SS", "UL", "SL"}
_PATIENT_GROUP = 0x0010
_SERIES_TYPE = "SeriesType."
_SENDER = "Sender.ae_title"
_SAFE = {"Manufacturer", "ManufacturerModelName", "SOPClassUID"}


class Condition(BaseModel):
    """A test of an attribute by `equals`, `in`, `regex` or `range`; it holds when any value meets it.

    Text is compared ignoring case, numbers as numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attribute: str = Field(
        description="a keyword of PS3.6, Sender.ae_title, or SeriesType. and a field of the series type"
    )
    equals: str | None = Field(default=None, description='"" means that the attribute is absent or empty')
    one_of: tuple[str, ...] | None = Field(default=None, alias="in", min_length=1, description="any of these")
    regex: str | None = Field(default=None, max_length=1024, description="found anywhere in the text; RE2's syntax")
    range: tuple[float, float] | None = Field(default=None, description="lowest and highest value, both included")

    @field_validator("equals", "one_of", mode="before")
    @classmethod
    def _numbers_as_text(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(_as_text(item) for item in value)
        return _as_text(value)

    @field_validator("attribute")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value == _SENDER:
            return value
        if value.startswith(_SERIES_TYPE):
            if value.removeprefix(_SERIES_TYPE) not in ROUTED_FIELDS:
                raise ValueError(f"'{value}' is none of {', '.join(_SERIES_TYPE + name for name in ROUTED_FIELDS)}")
            return value
        tag, vr = _entry(value)
        if vr not in _TEXT | _NUMBERS or tag >> 16 in (0x0000, 0x0002):
            raise ValueError(f"'{value}' is not the keyword of an attribute with text or numbers (PS3.6)")
        return value

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            _compiled(value or "")
        except ValueError as error:
            raise ValueError(f"the regular expression is invalid: {error}") from None
        return value

    @model_validator(mode="after")
    def _has_one_test(self) -> Self:
        if sum(test is not None for test in (self.equals, self.one_of, self.regex, self.range)) != 1:
            raise ValueError("a condition has exactly one of equals, in, regex and range")
        if self.range is not None and not self.range[0] <= self.range[1]:
            raise ValueError("a range is [lowest, highest]")
        return self

    def __str__(self) -> str:
        if self.one_of is not None:
            return f"{self.attribute} in {list(self.one_of)}"
        if self.regex is not None:
            return f"{self.attribute} matches /{self.regex}/"
        if self.range is not None:
            return f"{self.attribute} in {self.range[0]:g} … {self.range[1]:g}"
        return f"{self.attribute} = {self.equals!r}"


class RouteSection(BaseModel):
    """A [[route]]: conditions, and the models that classify the series, or the reason why none does; or only `urgent`.

    A model is given by its name, or as name:version. Without conditions a rule matches every series.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    match: tuple[Condition, ...] = ()
    models: tuple[str, ...] = ()
    refuse: str | None = Field(default=None, min_length=1, max_length=256)
    urgent: bool = False

    @model_validator(mode="after")
    def _decides(self) -> Self:
        chosen = bool(self.models), self.refuse is not None
        if all(chosen) or (self.urgent and chosen[1]) or not (any(chosen) or self.urgent):
            raise ValueError("a [[route]] has either models or refuse; urgent = true stands with models, or alone")
        return self

    @property
    def only_urgent(self) -> bool:
        """Whether the rule leaves it to others what classifies the series."""
        return not self.models and self.refuse is None


def check_routes(routes: Sequence[RouteSection]) -> None:
    """Raise ValueError for two rules of the same name, and for a rule that can never apply."""
    names = [route.name for route in routes]
    if len(set(names)) != len(names):
        raise ValueError("two [[route]] entries have the same name")
    for route, following in pairwise(routes):
        if not route.match and not route.only_urgent:
            raise ValueError(f"[[route]] '{following.name}' comes after '{route.name}', which matches everything")


def _as_text(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value


def _entry(keyword: str) -> tuple[int, str]:
    """(tag, VR) by PS3.6; (0, "") for an unknown keyword."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword  # takes time to import, and only rules need it

    tag = tag_for_keyword(keyword)
    return (tag, dictionary_VR(tag)) if tag is not None else (0, "")


def may_name_a_patient(keyword: str) -> bool:
    """True for the patient's own attributes, and for text, dates and UIDs, which may hold anything at all."""
    if _is_of_series(keyword):
        return False
    tag, vr = _entry(keyword)
    return tag >> 16 == _PATIENT_GROUP or not (vr in _NUMBERS | {"CS"} or keyword in _SAFE)


def _is_of_series(attribute: str) -> bool:
    """Whether a condition is about the series as a whole, so that nothing is recorded of its images."""
    return attribute.startswith(_SERIES_TYPE) or attribute == _SENDER


# --- what is recorded of an instance ---------------------------------------------------------------------------


def keywords(routes: Sequence[RouteSection]) -> tuple[str, ...]:
    """The attributes of the header that rules test, without duplicates."""
    tested = (condition.attribute for route in routes for condition in route.match)
    return tuple(dict.fromkeys(keyword for keyword in tested if not _is_of_series(keyword)))


def record_values(
    values: Mapping[str, Sequence[str] | None], routes: Sequence[RouteSection], hide: bool
) -> dict[str, Any]:
    """What the rules will need of an image when its series settles.

    With `hide`, an attribute that may identify a patient is not recorded, only whether its conditions hold. No
    condition holds for an attribute whose value is unknown (None).
    """
    recorded: dict[str, list[str]] = {}
    held: dict[str, bool] = {}
    for condition in (condition for route in routes for condition in route.match):
        if _is_of_series(condition.attribute):
            continue
        known = values.get(condition.attribute, ())
        if known is None:
            continue
        texts = list(known)
        if hide and may_name_a_patient(condition.attribute):
            held[_key(condition)] = holds(condition, texts)
        else:
            recorded[condition.attribute] = texts
    return {"values": recorded, "held": held}


def record_variants(
    variants: Sequence[Mapping[str, Sequence[str] | None]], routes: Sequence[RouteSection], hide: bool
) -> dict[str, Any]:
    """Like `record_values`, of an instance whose frames may differ: the variants of its frames, at least one."""
    recorded = [record_values(values, routes, hide) for values in variants]
    return recorded[0] if len(recorded) == 1 else {"kinds": recorded}


def recorded_images(attributes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What was recorded of each image of a series; {} for an image that arrived before there was any rule."""
    instances = [instance.get(ATTRIBUTES_KEY) or {} for instance in attributes]
    return [image for instance in instances for image in instance.get("kinds", [instance])]


def _key(condition: Condition) -> str:
    return hashlib.sha256(condition.model_dump_json().encode()).hexdigest()[:16]


# --- deciding --------------------------------------------------------------------------------------------------


def decide(
    routes: Sequence[RouteSection],
    attributes: Sequence[Mapping[str, Any]],
    series_type: SeriesType,
    senders: Sequence[str] = (),
) -> RouteSection | None:
    """The first rule that matches a series and decides, None when none does.

    `attributes` are those of its instances, `senders` the calling AE titles that brought them.
    """
    deciding = (route for route in routes if not route.only_urgent)
    return next((route for route in deciding if matches(route, attributes, series_type, senders)), None)


def is_urgent(
    routes: Sequence[RouteSection],
    attributes: Sequence[Mapping[str, Any]],
    series_type: SeriesType,
    senders: Sequence[str] = (),
) -> bool:
    """Whether a rule with `urgent` matches a series."""
    return any(route.urgent and matches(route, attributes, series_type, senders) for route in routes)


def matches(
    route: RouteSection,
    attributes: Sequence[Mapping[str, Any]],
    series_type: SeriesType,
    senders: Sequence[str] = (),
) -> bool:
    """Whether every image meets all the conditions; for a rule that chooses no models, whether any image does."""
    met = (
        all(_holds_for(condition, image, series_type, senders) for condition in route.match)
        for image in recorded_images(attributes)
    )
    return all(met) if route.models else any(met)


def failing_conditions(
    route: RouteSection,
    attributes: Sequence[Mapping[str, Any]],
    series_type: SeriesType,
    senders: Sequence[str] = (),
) -> list[tuple[Condition, int]]:
    """The conditions that do not hold for every image, each with the number of images that fail it."""
    images = recorded_images(attributes)
    counts = [
        (condition, sum(not _holds_for(condition, image, series_type, senders) for image in images))
        for condition in route.match
    ]
    return [(condition, number) for condition, number in counts if number]


def values_for(
    condition: Condition, image: Mapping[str, Any], series_type: SeriesType, senders: Sequence[str] = ()
) -> Sequence[str] | None:
    """What a condition is tested on; None for an image that was received before the rule was written."""
    if condition.attribute == _SENDER:
        return senders
    if condition.attribute.startswith(_SERIES_TYPE):
        return [series_type.value_of(condition.attribute.removeprefix(_SERIES_TYPE))]
    values: Sequence[str] | None = image.get("values", {}).get(condition.attribute)
    return values


def _holds_for(condition: Condition, image: Mapping[str, Any], series_type: SeriesType, senders: Sequence[str]) -> bool:
    """False for an image that was received before the rule was written, because its attribute was not recorded."""
    held = image.get("held", {}).get(_key(condition))
    if held is not None:
        return bool(held)
    values = values_for(condition, image, series_type, senders)
    return values is not None and holds(condition, values)


def holds(condition: Condition, values: Sequence[str]) -> bool:
    """Whether a condition holds for the values of its attribute in an image; an absent attribute has no values."""
    if condition.equals == "":
        return not any(values)
    if condition.regex is not None:
        return any(_compiled(condition.regex).search(value) for value in values)
    if condition.range is not None:
        low, high = condition.range
        return any(low <= number <= high for number in map(_number, values) if number is not None)
    accepted = condition.one_of if condition.one_of is not None else (condition.equals or "",)
    return any(_is_same(text, value) for text in accepted for value in values)


@lru_cache
def _compiled(pattern: str) -> Any:
    """A regular expression that is matched in linear time, whatever the pattern and the text. Raises ValueError."""
    import re2  # takes time to import, and only rules need it

    options = re2.Options()
    options.log_errors = False  # they go to stderr, past the log
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        [detail] = error.args
        why = detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)
        raise ValueError(f"{why} (RE2's syntax: no look-around, no back-references)") from None


def _is_same(text: str, value: str) -> bool:
    number = _number(text)
    return text.casefold() == value.casefold() or (number is not None and number == _number(value))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class ActiveModel:
    """An active model, as rules name it."""

    id: int
    name: str
    version: str


def choose_models(route: RouteSection | None, active: Sequence[ActiveModel]) -> tuple[list[int], str | None]:
    """(rows of the models that classify, the reason to wait for a model): without a rule, all active models."""
    if not active:
        return [], "no model is active"
    if route is None:
        return [model.id for model in active], None
    chosen: list[int] = []
    for name in route.models:
        ids = [model.id for model in active if name in (model.name, f"{model.name}:{model.version}")]
        if not ids:
            return [], f"rule '{route.name}' chooses {name}, which is not active"
        chosen += ids
    return list(dict.fromkeys(chosen)), None


def reasons_to_wait(routes: Sequence[RouteSection], active: Sequence[ActiveModel]) -> list[str]:
    """Every reason for which a series may have to wait while these models are active: see `choose_models`."""
    reasons = [choose_models(route, active)[1] for route in (None, *(route for route in routes if route.models))]
    return list(dict.fromkeys(reason for reason in reasons if reason is not None))
