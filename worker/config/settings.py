"""config.toml + environment → a frozen Settings. An unknown key is rejected, and the nearest known key named."""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic.fields import FieldInfo

from worker.config.notify import NotifySection
from worker.config.paths import relative_to
from worker.config.routing import Condition, RouteSection, check_routes
from worker.config.sections import (
    ENVIRONMENT_PREFIX,
    ApplicationEntity,
    AuditSection,
    DatabaseSection,
    DestinationSection,
    EligibilitySection,
    PeerSection,
    PrivacySection,
    ReceiveSection,
    ReportSection,
    RetentionSection,
    StudySection,
    WebSection,
    WorkerSection,
)
from worker.errors import StartError

_LARGEST_FILE = 1 << 20
_FAULTS_AT_MOST = 10  # that a message names
_LISTS: dict[str, type[BaseModel]] = {
    "peer": PeerSection,
    "route": RouteSection,
    "match": Condition,
    "notify": NotifySection,
}


class Settings(BaseModel):
    """All settings of the worker; built once by `load_settings` and passed down."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    worker: WorkerSection = Field(default_factory=WorkerSection)
    receive: ReceiveSection = Field(default_factory=ReceiveSection)
    eligibility: EligibilitySection = Field(default_factory=EligibilitySection)
    study: StudySection = Field(default_factory=StudySection)
    report: ReportSection = Field(default_factory=ReportSection)
    retention: RetentionSection = Field(default_factory=RetentionSection)
    privacy: PrivacySection = Field(default_factory=PrivacySection)
    database: DatabaseSection = Field(default_factory=DatabaseSection)
    destination: tuple[DestinationSection, ...] = ()  # see `with_kinds`
    peer: tuple[PeerSection, ...] = ()
    route: tuple[RouteSection, ...] = ()
    notify: tuple[NotifySection, ...] = ()
    web: WebSection = Field(default_factory=WebSection)
    audit: AuditSection = Field(default_factory=AuditSection)

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Settings:
        names = [section.name for section in self.destination]
        if len(set(names)) != len(names):
            raise ValueError("two [[destination]] entries have the same name")
        titles = [section.ae_title for section in self.peer]
        if len(set(titles)) != len(titles):
            raise ValueError("two [[peer]] entries have the same ae_title")
        channels = [section.name for section in self.notify]
        if len(set(channels)) != len(channels):
            raise ValueError("two [[notify]] entries have the same name")
        check_routes(self.route)
        return self

    @property
    def application_entities(self) -> list[ApplicationEntity]:
        """The destinations that are DICOM application entities."""
        return [entity for section in self.destination if (entity := section.application_entity) is not None]

    @property
    def nodes(self) -> dict[str, ApplicationEntity]:
        """Who can be sent to by C-STORE, by name: every [[peer]] by its AE title, and the destinations of that kind."""
        found: dict[str, ApplicationEntity] = {peer.ae_title: peer for peer in self.peer}
        entities = {section.name: section.application_entity for section in self.destination}
        return found | {name: entity for name, entity in entities.items() if entity is not None}

    @property
    def audit_dir(self) -> Path:
        return self.audit.folder or self.worker.data_dir / "audit"


def load_settings(path: Path | None, kinds: Sequence[type[DestinationSection]]) -> Settings:
    """The settings of a TOML file (or the defaults, with None), overridden by `WORKER__SECTION__KEY`.

    `kinds` are the kinds of [[destination]]; an entry that no other kind claims is of the first. Relative paths and a
    relative SQLite URL are resolved against the folder of the file, so that the working directory of a service does
    not matter. Raises StartError with a single line that names the key at fault.
    """
    content: dict[str, Any] = {}
    if path is not None:
        try:
            with path.open("rb") as file:
                raw = file.read(_LARGEST_FILE + 1)
            if len(raw) > _LARGEST_FILE:
                raise StartError("config-unreadable", f"{path} exceeds {_LARGEST_FILE >> 10} KiB")
            content = tomllib.loads(raw.decode("utf-8"))
        except FileNotFoundError:
            raise StartError("config-missing", f"there is no configuration file {path}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise StartError("config-unreadable", f"{path} cannot be read: {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise StartError("config-not-toml", f"{path} is not valid TOML: {error}") from None
        except (ValueError, RecursionError):  # a number of thousands of digits, thousands of brackets
            raise StartError("config-not-toml", f"{path} holds a value that no setting can have") from None
    for section, value in settings_of_environment(os.environ).items():
        below = content.get(section)
        content[section] = below | value if isinstance(below, dict) and isinstance(value, dict) else value
    try:
        with relative_to(path.resolve().parent if path is not None else Path.cwd()):
            return with_kinds(tuple(kinds))(**content)
    except ValidationError as error:
        raise StartError("config-invalid", f"{path or 'environment'}: {_explain(error, kinds)}") from None


@cache
def with_kinds(kinds: tuple[type[DestinationSection], ...]) -> type[Settings]:
    """Settings whose [[destination]] tables are validated by their kinds: see `load_settings`."""

    def kind_of(value: Any) -> str:
        if isinstance(value, DestinationSection):
            return type(value).__name__
        claimed = (kind for kind in kinds if isinstance(value, dict) and kind.claims(value))
        return next(claimed, kinds[0]).__name__

    tagged: Any = reduce(or_, (Annotated[kind, Tag(kind.__name__)] for kind in kinds))
    section: Any = Annotated[tagged, Discriminator(kind_of)]
    return create_model("Settings", __base__=Settings, destination=(tuple[section, ...], ()))


def _known_keys(model: type[BaseModel]) -> list[str]:
    return list(model.model_fields)


def _section_of(location: tuple[int | str, ...], kinds: Mapping[str, type[BaseModel]]) -> type[BaseModel]:
    model: type[BaseModel] = Settings
    for key in location:
        if key in kinds:
            model = kinds[str(key)]
        if isinstance(key, int) or key not in model.model_fields:
            continue
        annotation = model.model_fields[key].annotation
        if key == "destination":
            model = DestinationSection
        elif key in _LISTS:
            model = _LISTS[str(key)]
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return model


def _explain(error: ValidationError, kinds: Sequence[type[DestinationSection]]) -> str:
    by_name = {kind.__name__: kind for kind in kinds}  # as pydantic names them in a location
    faults = []
    found = error.errors(include_url=False, include_input=False)
    for fault in found[:_FAULTS_AT_MOST]:
        location, message = fault["loc"], fault["msg"].removeprefix("Value error, ")
        key = ".".join(str(name) for name in location if name not in by_name)
        if fault["type"] == "extra_forbidden":
            faults.append(f"unknown key '{key}'{_nearest(str(location[-1]), _section_of(location[:-1], by_name))}")
        else:
            faults.append(f"'{key}': {message}" if key else fault["msg"])
    more = len(found) - len(faults)
    return "; ".join(faults) + (f"; and {more} more" if more else "")


def _nearest(key: str, model: type[BaseModel]) -> str:
    near = difflib.get_close_matches(key, _known_keys(model), n=1, cutoff=0.5)
    return f" (did you mean '{near[0]}'?)" if near else f" (known: {', '.join(_known_keys(model))})"


def settings_of_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings that variables name, as they would stand in the file: `WORKER__SECTION__KEY=value`.

    A list, or a section as a whole, is given as JSON. Raises StartError for a name that is no setting.
    """
    found: dict[str, Any] = {}
    for name in sorted(environment, key=len):  # WORKER__RECEIVE before WORKER__RECEIVE__PORT
        if not name.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        section, *keys = [key.lower() for key in name[len(ENVIRONMENT_PREFIX) :].split("__")]
        annotation = _field(name, Settings, section).annotation
        table = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
        if not keys:
            found[section] = _parsed(name, environment[name], dict if table is not None else list)
        elif table is not None and len(keys) == 1:
            is_list = get_origin(_field(name, table, keys[0]).annotation) is tuple
            value = _parsed(name, environment[name], list) if is_list else environment[name]
            found.setdefault(section, {})[keys[0]] = value
        else:
            raise StartError("config-invalid", f"unknown environment variable {name}: give WORKER__{section.upper()}")
    return found


def _field(variable: str, model: type[BaseModel], key: str) -> FieldInfo:
    """The field that a variable names. Raises StartError if there is none."""
    if key not in model.model_fields:
        raise StartError("config-invalid", f"unknown environment variable {variable}{_nearest(key, model)}")
    return model.model_fields[key]


def _parsed(variable: str, text: str, expected: type) -> Any:
    """A value that is given as JSON. Raises StartError, without the text, which may be a secret."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, expected):
        kind = "an object" if expected is dict else "a list"
        raise StartError("config-invalid", f"environment variable {variable}: give {kind} as JSON")
    return value
