"""The TOML file in which the owner of a model says what it is: name, classes with their codes, preprocessing.

docs/import.md describes it. The classes stand in the order of the network's outputs.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from monai_train.export.coded_classes import Code, Concept
from worker.errors import StartError
from worker.inference.transforms.allowed import PREFIX, MonaiTransforms, Step

_LIMITS = (
    "Research use only, not a medical device. Trained elsewhere: what it was trained on, and where it fails, is not "
    "known here."
)
Share = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ImportedClass(Concept):
    """A class: an output of the network. Without a finding it means that nothing is there."""

    name: str = Field(min_length=1, max_length=64)
    neoplasm: bool = False

    @model_validator(mode="after")
    def _neoplasm_has_a_finding(self) -> ImportedClass:
        if self.neoplasm and self.finding is None:
            raise ValueError("a neoplasm needs a finding")
        return self


class Description(_Strict):
    """What the file says. `transform`: inline; or `preprocessing`: a MONAI configuration beside the file."""

    name: str = Field(min_length=1, max_length=64)
    version: str = Field(min_length=1, max_length=16)
    manufacturer: str = Field(default="unknown", min_length=1, max_length=64)
    limits: str = Field(default=_LIMITS, min_length=1, max_length=1024)
    network: str | None = None
    network_arguments: dict[str, Any] = {}
    presence: Code | None = None
    minimum_probability: Share = 0.0
    minimum_no_finding: Share = 0.0
    top_fraction: Share | None = None
    classes: tuple[ImportedClass, ...] = Field(alias="class", min_length=2)
    transform: tuple[dict[str, Any], ...] = ()
    preprocessing: str | None = None

    @model_validator(mode="after")
    def _is_sound(self) -> Description:
        names = [item.name for item in self.classes]
        if len(set(names)) < len(names):
            raise ValueError("two classes have the same name")
        if all(item.finding is None for item in self.classes):
            raise ValueError("no class has a finding")
        if bool(self.transform) == (self.preprocessing is not None):
            raise ValueError("give either [[transform]] tables or preprocessing, the path of a MONAI configuration")
        return self

    @property
    def share_of_slices(self) -> float:
        """The share of the slices that decide: all, unless a class says that nothing is there."""
        if self.top_fraction is not None:
            return self.top_fraction
        return 0.125 if any(item.finding is None for item in self.classes) else 1.0


def read_description(path: Path) -> tuple[Description, MonaiTransforms]:
    """Read the file and check it. Raises StartError: unreadable, what is wrong and where, an unknown transform."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
        description = Description.model_validate(values)
    except OSError as error:
        raise StartError("description-unreadable", f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StartError("description-unreadable", f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StartError("description-invalid", f"{path}: {f'{place}: ' if place else ''}{first['msg']}") from None
    if description.preprocessing is not None:
        entries = _configured(path.parent / description.preprocessing)
    else:
        entries = [{"_target_": item.get("name"), **item} for item in description.transform]
        entries = [{key: value for key, value in item.items() if key != "name"} for item in entries]
    return description, MonaiTransforms.of([_step(entry) for entry in entries])


def _step(entry: Any) -> Step:
    """A transform of a configuration; of a dictionary transform, which ends in "d", the array transform."""
    if not isinstance(entry, dict) or not isinstance(entry.get("_target_"), str):
        raise StartError("preprocessing-invalid", "The preprocessing has an entry that names no transform.")
    target = entry["_target_"].removeprefix(PREFIX)
    arguments = {key: value for key, value in entry.items() if key not in ("_target_", "keys", "allow_missing_keys")}
    if "keys" in entry and target.endswith(("Dict", "d", "D")):
        target = target.removesuffix("Dict").removesuffix("d").removesuffix("D")
    return Step(target, arguments)


def _configured(path: Path) -> list[Any]:
    """The transforms of a MONAI configuration, JSON or YAML: its "preprocessing", or a Compose or a list by itself."""
    try:
        text = path.read_text("utf-8")
        values = _yaml(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
    except OSError as error:
        raise StartError("preprocessing-unreadable", f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise StartError("preprocessing-unreadable", f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if isinstance(values, dict) and "preprocessing" in values:
        values = values["preprocessing"]
    if isinstance(values, dict):
        values = values.get("transforms")
    if not isinstance(values, list):
        raise StartError("preprocessing-invalid", f"{path} has no list of transforms")
    return values


def _yaml(text: str) -> Any:
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError:
        raise StartError("yaml-missing", "a YAML file needs PyYAML: install it, or write JSON") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
