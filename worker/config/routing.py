"""Which models a series is for: the `[[route]]` rules of config.toml, looked at in their order. Pure.

A rule that chooses models matches a series when every image fulfils all its conditions; one that refuses, when any
image does: each errs on the side of not classifying. The first rule that matches decides. A condition sees attributes
of the dataset's top level, and where that has none those of its functional groups, as text, at most 16 values of 256
characters. Frames of one file that differ in what rules ask for are images of their own here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MODEL_NOT_ACTIVE = "model-not-active"
KEPT_AS = "route"  # the key of an instance's attributes under which `keep` has its place
_TEXT = {"AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UT"}
_NUMBERS = {"DS", "IS", "FD", "FL", "US", "SS", "UL", "SL"}
_PATIENT_GROUP = 0x0010
_SAFE = {"Manufacturer", "ManufacturerModelName", "SOPClassUID"}


class Condition(BaseModel):
    """One of `equals`, `in`, `regex` and `range` holds for at least one value of an attribute.

    Text is compared without regard to case, numbers as numbers; `equals = ""` asks for an attribute that is absent or
    empty. `regex` is searched for anywhere, in Python's syntax. `range` has both its ends in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attribute: str
    equals: str | None = None
    one_of: tuple[str, ...] | None = Field(default=None, alias="in", min_length=1)
    regex: str | None = Field(default=None, max_length=1024)
    range: tuple[float, float] | None = None

    @field_validator("equals", "one_of", mode="before")
    @classmethod
    def _numbers_as_text(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(_as_text(one) for one in value)
        return _as_text(value)

    @field_validator("attribute")
    @classmethod
    def _is_known(cls, value: str) -> str:
        tag, vr = _entry(value)
        if vr not in _TEXT | _NUMBERS or tag >> 16 in (0x0000, 0x0002):
            raise ValueError(f"'{value}' is no attribute of a dataset with text or numbers (PS3.6), by its keyword")
        return value

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"the regular expression is wrong: {error}") from None
        return value

    @model_validator(mode="after")
    def _asks_one_thing(self) -> Self:
        if sum(one is not None for one in (self.equals, self.one_of, self.regex, self.range)) != 1:
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
    """One [[route]]: conditions, and the models to ask or the reason why none is.

    A model is its name, or name:version. Without conditions a rule matches every series.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    match: tuple[Condition, ...] = ()
    models: tuple[str, ...] = ()
    refuse: str | None = Field(default=None, min_length=1, max_length=256)

    @model_validator(mode="after")
    def _decides(self) -> Self:
        if bool(self.models) == (self.refuse is not None):
            raise ValueError("a [[route]] has either models or refuse")
        return self


def check_routes(routes: Sequence[RouteSection]) -> None:
    """Raises ValueError for two rules of one name, and for one that can never have its turn."""
    names = [one.name for one in routes]
    if len(set(names)) != len(names):
        raise ValueError("two [[route]] entries have the same name")
    for place, route in enumerate(routes[:-1]):
        if not route.match:
            raise ValueError(
                f"[[route]] '{routes[place + 1].name}' comes after '{route.name}', which matches everything"
            )


def _as_text(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value


def _entry(keyword: str) -> tuple[int, str]:
    """(tag, VR) of PS3.6; (0, "") for what is no keyword."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword  # costs time, and only rules need it

    tag = tag_for_keyword(keyword)
    return (tag, dictionary_VR(tag)) if tag is not None else (0, "")


def may_name_a_patient(keyword: str) -> bool:
    """True for the patient's own attributes, and for text, dates and UIDs, which may hold anything."""
    tag, vr = _entry(keyword)
    return tag >> 16 == _PATIENT_GROUP or not (vr in _NUMBERS | {"CS"} or keyword in _SAFE)


# --- what is kept of an instance -------------------------------------------------------------------------------


def keywords(routes: Sequence[RouteSection]) -> tuple[str, ...]:
    """The attributes that rules ask for, each once."""
    return tuple(dict.fromkeys(one.attribute for route in routes for one in route.match))


def keep(values: Mapping[str, Sequence[str] | None], routes: Sequence[RouteSection], hide: bool) -> dict[str, Any]:
    """What the rules need of an image later on. With `hide`, of what may name a patient only whether it matched.

    No condition holds for an attribute whose value is not known: None.
    """
    kept: dict[str, list[str]] = {}
    held: dict[str, bool] = {}
    for condition in (one for route in routes for one in route.match):
        known = values.get(condition.attribute, ())
        if known is None:
            continue
        here = list(known)
        if hide and may_name_a_patient(condition.attribute):
            held[_key(condition)] = holds(condition, here)
        else:
            kept[condition.attribute] = here
    return {"values": kept, "held": held}


def keep_kinds(
    kinds: Sequence[Mapping[str, Sequence[str] | None]], routes: Sequence[RouteSection], hide: bool
) -> dict[str, Any]:
    """The same of an instance, of which frames may differ: `kinds` of them, at least one."""
    kept = [keep(one, routes, hide) for one in kinds]
    return kept[0] if len(kept) == 1 else {"kinds": kept}


def images(attributes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What was kept of the instances of a series, as one of each image; {} for one that came before any rule."""
    kept = [one.get(KEPT_AS) or {} for one in attributes]
    return [image for one in kept for image in one.get("kinds", [one])]


def _key(condition: Condition) -> str:
    return hashlib.sha256(condition.model_dump_json().encode()).hexdigest()[:16]


# --- deciding --------------------------------------------------------------------------------------------------


def decide(routes: Sequence[RouteSection], attributes: Sequence[Mapping[str, Any]]) -> RouteSection | None:
    """The first rule that matches a series, None when none does; `attributes` of its instances, as `keep` left them."""
    return next((one for one in routes if matches(one, attributes)), None)


def matches(route: RouteSection, attributes: Sequence[Mapping[str, Any]]) -> bool:
    fulfil = (all(_holds_for(one, image) for one in route.match) for image in images(attributes))
    return any(fulfil) if route.refuse is not None else all(fulfil)


def failing(route: RouteSection, attributes: Sequence[Mapping[str, Any]]) -> list[tuple[Condition, int]]:
    """The conditions that do not hold for every image, and for how many they do not."""
    seen = images(attributes)
    counts = [(one, sum(not _holds_for(one, image) for image in seen)) for one in route.match]
    return [(one, number) for one, number in counts if number]


def _holds_for(condition: Condition, kept: Mapping[str, Any]) -> bool:
    """False for an image that was received before the rule was written: its attribute was not kept."""
    held = kept.get("held", {}).get(_key(condition))
    if held is not None:
        return bool(held)
    values = kept.get("values", {}).get(condition.attribute)
    return values is not None and holds(condition, values)


def holds(condition: Condition, values: Sequence[str]) -> bool:
    """Whether a condition holds for the values of one attribute of one image; an absent one has none."""
    if condition.equals == "":
        return not any(values)
    if condition.regex is not None:
        return any(re.search(condition.regex, one) for one in values)
    if condition.range is not None:
        low, high = condition.range
        return any(low <= number <= high for number in map(_number, values) if number is not None)
    wanted = condition.one_of if condition.one_of is not None else (condition.equals or "",)
    return any(_same(one, value) for one in wanted for value in values)


def _same(one: str, other: str) -> bool:
    number = _number(one)
    return one.casefold() == other.casefold() or (number is not None and number == _number(other))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Target:
    """An active model, as rules name it."""

    id: int
    name: str
    version: str


def chosen(route: RouteSection | None, active: Sequence[Target]) -> tuple[list[int], str | None]:
    """(the rows of the models to ask, what is to be waited for): without a rule all that are active."""
    if not active:
        return [], "no model is active"
    if route is None:
        return [one.id for one in active], None
    found: list[int] = []
    for name in route.models:
        ids = [one.id for one in active if name in (one.name, f"{one.name}:{one.version}")]
        if not ids:
            return [], f"rule '{route.name}' chooses {name}, which is not active"
        found += ids
    return list(dict.fromkeys(found)), None


def awaited(routes: Sequence[RouteSection], active: Sequence[Target]) -> list[str]:
    """Everything that series may have to wait for as things stand: see `chosen`."""
    found = [chosen(one, active)[1] for one in (None, *(route for route in routes if route.models))]
    return list(dict.fromkeys(one for one in found if one is not None))
