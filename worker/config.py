"""config.toml + environment → one frozen Settings. Unknown keys are refused and the nearest known key is named."""

from __future__ import annotations

import difflib
import os
import tomllib
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from worker.errors import StartError
from worker.routing import Condition, RouteSection, check_routes

ENVIRONMENT_PREFIX = "WORKER__"
_KEY_LENGTH = 32  # characters: 128 bits as hexadecimal digits


def _check_ae_title(value: str) -> str:
    # PS3.5 6.2, VR AE: 16 characters at most, no backslash, no control characters, not only spaces.
    if not 1 <= len(value.strip()) <= 16 or "\\" in value or not value.isascii() or not value.isprintable():
        raise ValueError("an AE title has 1 to 16 ASCII characters and no backslash")
    return value.strip()


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WorkerSection(_Section):
    """[worker]: who we are and where our files live."""

    ae_title: str = "AI_WORKER"
    data_dir: Path = Path("var")
    bundle: Path | None = None
    inference_processes: int = Field(default=1, ge=1, le=64)
    inference_threads: int = Field(default=0, ge=0, le=256)
    engine: Literal["openvino-int8", "openvino-fp32", "torch"] = "openvino-int8"
    job_timeout_seconds: float = Field(default=600.0, gt=0)
    job_memory_bytes: int = Field(default=4 << 30, ge=0)
    job_attempts: int = Field(default=3, ge=1, le=100)
    lease_seconds: float = Field(default=30.0, ge=3)

    _ae_title = field_validator("ae_title")(_check_ae_title)


class _TlsPaths(_Section):
    """Certificate and key of our side and the authority that signs the peer's, as PEM files."""

    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_authority: Path | None = None


class _TlsFiles(_TlsPaths):
    """All three or none: DICOM over TLS has certificates on both sides (PS3.15 B.12)."""

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        files = (self.tls_certificate, self.tls_key, self.tls_authority)
        if any(files) and not all(files):
            raise ValueError("TLS needs tls_certificate, tls_key and tls_authority together")
        return self


class ReceiveSection(_TlsFiles):
    """[receive]: the Storage SCP."""

    host: str = "0.0.0.0"
    port: int = Field(default=11112, ge=1, le=65535)
    quiet_seconds: float = Field(default=10.0, ge=0)
    allowed_peers: tuple[str, ...] = ()
    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    require_called_ae_title: bool = False
    maximum_associations: int = Field(default=64, ge=1)
    maximum_pdu_bytes: int = Field(default=1 << 20, ge=4096)
    idle_seconds: float = Field(default=60.0, gt=0)
    maximum_association_seconds: float = Field(default=14400.0, gt=0)
    maximum_dataset_bytes: int = Field(default=512 << 20, ge=1 << 16)
    settle_on_count: bool = False
    incomplete_seconds: float = Field(default=60.0, ge=0)
    minimum_free_bytes: int = Field(default=256 << 20, ge=0)

    @field_validator("allowed_peers")
    @classmethod
    def _peers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_check_ae_title(one) for one in value)


class EligibilitySection(_Section):
    """[eligibility]: which settled series are handed to a model; the others are refused with the reason."""

    modalities: tuple[str, ...] = ("MR",)
    minimum_slices: int = Field(default=3, ge=1)
    maximum_slices: int = Field(default=2000, ge=1)
    refuse_image_types: tuple[str, ...] = ("LOCALIZER", "MOSAIC", "PROJECTION IMAGE", "MIP", "PHASE")
    refuse_scanning_sequences: tuple[str, ...] = ("EP",)
    body_parts: tuple[str, ...] = ("BRAIN", "HEAD", "SKULL", "HEADNECK")
    refuse_incomplete: bool = False


class RetentionSection(_Section):
    """[retention]: when received pixels are deleted; results, reports and pictures are kept."""

    pixel_days: float = Field(default=0.0, ge=0)


class PrivacySection(_Section):
    """[privacy]: what the database keeps of a patient; the key comes from the environment."""

    pseudonymise: bool = False
    pseudonym_key: SecretStr = SecretStr("")

    @model_validator(mode="after")
    def _key_is_long_enough(self) -> Self:
        if self.pseudonymise and len(self.pseudonym_key.get_secret_value()) < _KEY_LENGTH:
            variable = f"{ENVIRONMENT_PREFIX}PRIVACY__PSEUDONYM_KEY"
            raise ValueError(f"pseudonymise needs a key of {_KEY_LENGTH} characters or more in {variable}")
        return self


class DatabaseSection(_Section):
    """[database]: SQLite by default, PostgreSQL when one machine is outgrown."""

    url: str = "sqlite:///var/worker.db"


_Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]


class DestinationSection(_TlsFiles):
    """One [[destination]]: where reports and pictures are sent by C-STORE."""

    name: _Name
    ae_title: str
    host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    timeout_seconds: float = Field(default=30.0, gt=0)
    key_objects: bool = False
    storage_commitment: bool = False
    commitment_timeout_seconds: float = Field(default=300.0, gt=0)

    _ae_title = field_validator("ae_title")(_check_ae_title)


class HttpSection(_TlsPaths):
    """One [[destination]] with a `url`.

    The authority alone is enough where the server asks for no certificate; without it the system's authorities count.
    """

    name: _Name
    url: str
    bearer_token_file: Path | None = None
    bearer_token_variable: str | None = Field(default=None, min_length=1)
    timeout_seconds: float = Field(default=30.0, gt=0)

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("the URL of a service looks like https://host/dicom-web or https://host/fhir")
        if parts.username or parts.password:
            raise ValueError("no user or password in the URL: give bearer_token_file or bearer_token_variable")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _secrets_travel_by_tls(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("a client certificate needs tls_certificate and tls_key together")
        if self.bearer_token_file is not None and self.bearer_token_variable is not None:
            raise ValueError("bearer_token_file or bearer_token_variable, not both")
        if self.url.startswith("https:"):
            return self
        if self.tls_certificate or self.tls_authority:
            raise ValueError("TLS files need an https URL")
        if (self.bearer_token_file or self.bearer_token_variable) and not _is_loopback(self.url):
            raise ValueError("a bearer token goes out by https only")
        return self


class DicomwebSection(HttpSection):
    """One [[destination]] with a `url`: where reports and pictures are sent by STOW-RS (PS3.18 10.5)."""

    key_objects: bool = False


class FhirSection(HttpSection):
    """One [[destination]] with `fhir = true`: where reports are sent as FHIR R4 resources; pictures are not."""

    fhir: Literal[True]


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class PeerSection(_TlsFiles):
    """One [[peer]]: a sender that may be asked how many images a series has, or that may ask for what we hold."""

    ae_title: str
    host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    query: bool = False
    may_retrieve: bool = False
    timeout_seconds: float = Field(default=5.0, gt=0)

    _ae_title = field_validator("ae_title")(_check_ae_title)


_LISTS: dict[str, type[BaseModel]] = {"peer": PeerSection, "route": RouteSection, "match": Condition}
_DESTINATIONS: dict[str, type[BaseModel]] = {
    "dicom": DestinationSection,
    "dicomweb": DicomwebSection,
    "fhir-r4": FhirSection,  # other words than the keys, for they stand beside them in pydantic's locations
}


def _kind_of_destination(value: Any) -> str:
    if isinstance(value, dict):
        return "fhir-r4" if "fhir" in value else "dicomweb" if "url" in value else "dicom"
    return next(kind for kind, section in _DESTINATIONS.items() if isinstance(value, section))


Destination = DestinationSection | DicomwebSection | FhirSection


class WebSection(_Section):
    """[web]: health, the page and the API. Loopback until told otherwise; tokens wherever it listens."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=1, le=65535)
    require_token: bool = True
    session_hours: float = Field(default=12.0, gt=0, le=24 * 31)
    stow: bool = False
    stow_maximum_bytes: int = Field(default=4 << 30, ge=1 << 20)
    tls_certificate: Path | None = None
    tls_key: Path | None = None

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TLS needs tls_certificate and tls_key together")
        if not self.require_token and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("require_token = false is for host = '127.0.0.1' only")
        return self


class AuditSection(_TlsFiles):
    """[audit]: the trail of who did what; its files, and a syslog server that gets a copy over TLS."""

    folder: Path | None = None
    source: str = Field(default="", max_length=100)
    maximum_file_bytes: int = Field(default=16 << 20, ge=1 << 16)
    patient_ids: bool = False
    syslog_host: str | None = None
    syslog_port: int = Field(default=6514, ge=1, le=65535)

    @model_validator(mode="after")
    def _syslog_has_tls(self) -> Self:
        if self.syslog_host is not None and self.tls_certificate is None:
            raise ValueError("syslog_host needs tls_certificate, tls_key and tls_authority")
        return self


class Settings(BaseSettings):
    """Every setting of the worker; built once by `load_settings` and passed down."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__"
    )

    worker: WorkerSection = WorkerSection()
    receive: ReceiveSection = ReceiveSection()
    eligibility: EligibilitySection = EligibilitySection()
    retention: RetentionSection = RetentionSection()
    privacy: PrivacySection = PrivacySection()
    database: DatabaseSection = DatabaseSection()
    destination: tuple[
        Annotated[
            Annotated[DestinationSection, Tag("dicom")]
            | Annotated[DicomwebSection, Tag("dicomweb")]
            | Annotated[FhirSection, Tag("fhir-r4")],
            Discriminator(_kind_of_destination),
        ],
        ...,
    ] = ()
    peer: tuple[PeerSection, ...] = ()
    route: tuple[RouteSection, ...] = ()
    web: WebSection = WebSection()
    audit: AuditSection = AuditSection()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment comes before the file (which arrives as init arguments)."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Settings:
        names = [one.name for one in self.destination]
        if len(set(names)) != len(names):
            raise ValueError("two [[destination]] entries have the same name")
        titles = [one.ae_title for one in self.peer]
        if len(set(titles)) != len(titles):
            raise ValueError("two [[peer]] entries have the same ae_title")
        check_routes(self.route)
        return self

    @property
    def instances_dir(self) -> Path:
        return self.worker.data_dir / "instances"

    @property
    def objects_dir(self) -> Path:
        return self.worker.data_dir / "objects"

    @property
    def audit_dir(self) -> Path:
        return self.audit.folder or self.worker.data_dir / "audit"


def load_settings(path: Path | None) -> Settings:
    """The settings of a TOML file (or the defaults, with None), overridden by `WORKER__SECTION__KEY`.

    Relative paths and a relative SQLite URL are taken from the folder of the file, so that the working directory of
    a service does not matter. Raises StartError with one line that names the key at fault.
    """
    content: dict[str, Any] = {}
    if path is not None:
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StartError("config-missing", f"there is no configuration file {path}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise StartError("config-unreadable", f"{path} cannot be read: {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise StartError("config-not-toml", f"{path} is not valid TOML: {error}") from None
    _refuse_unknown_environment()
    try:
        settings = Settings(**content)
    except ValidationError as error:
        raise StartError("config-invalid", f"{path or 'environment'}: {_explain(error)}") from None
    return _anchor(settings, path.resolve().parent if path is not None else Path.cwd())


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite URL, None for another database."""
    prefix = "sqlite:///"
    return Path(url.removeprefix(prefix)) if url.startswith(prefix) else None


def _anchor(settings: Settings, folder: Path) -> Settings:
    worker = settings.worker.model_copy(
        update={
            "data_dir": folder / settings.worker.data_dir,
            "bundle": folder / settings.worker.bundle if settings.worker.bundle else None,
        }
    )
    receive = _anchor_tls(settings.receive, folder)
    destinations = tuple(_anchor_destination(one, folder) for one in settings.destination)
    peers = tuple(_anchor_tls(one, folder) for one in settings.peer)
    file = sqlite_path(settings.database.url)
    database = settings.database
    if file is not None:
        database = database.model_copy(update={"url": f"sqlite:///{folder / file}"})
    changed = {"worker": worker, "database": database, "receive": receive, "destination": destinations, "peer": peers}
    files = {name: folder / file for name in ("tls_certificate", "tls_key") if (file := getattr(settings.web, name))}
    changed |= {"web": settings.web.model_copy(update=files)}
    audit = _anchor_tls(settings.audit, folder)
    changed |= {"audit": audit.model_copy(update={"folder": folder / audit.folder if audit.folder else None})}
    return settings.model_copy(update=changed)


T = TypeVar("T", bound=_TlsPaths)


def _anchor_tls(section: T, folder: Path) -> T:
    files = {name: getattr(section, name) for name in _TlsPaths.model_fields}
    return section.model_copy(update={name: folder / file for name, file in files.items() if file is not None})


def _anchor_destination(section: Destination, folder: Path) -> Destination:
    anchored = _anchor_tls(section, folder)
    if isinstance(anchored, HttpSection) and anchored.bearer_token_file is not None:
        return anchored.model_copy(update={"bearer_token_file": folder / anchored.bearer_token_file})
    return anchored


def _known_keys(model: type[BaseModel]) -> list[str]:
    return list(model.model_fields)


def _section_of(location: tuple[int | str, ...]) -> type[BaseModel]:
    model: type[BaseModel] = Settings
    for part in location:
        if part in _DESTINATIONS:
            model = _DESTINATIONS[str(part)]
        if isinstance(part, int) or part not in model.model_fields:
            continue
        annotation = model.model_fields[part].annotation
        if part == "destination":
            model = DestinationSection
        elif part in _LISTS:
            model = _LISTS[str(part)]
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return model


def _explain(error: ValidationError) -> str:
    lines = []
    for one in error.errors(include_url=False, include_input=False):
        key = ".".join(str(part) for part in one["loc"] if part not in _DESTINATIONS)
        if one["type"] == "extra_forbidden":
            lines.append(f"unknown key '{key}'{_nearest(str(one['loc'][-1]), _section_of(one['loc'][:-1]))}")
        else:
            lines.append(f"'{key}': {one['msg'].removeprefix('Value error, ')}" if key else one["msg"])
    return "; ".join(lines)


def _nearest(key: str, model: type[BaseModel]) -> str:
    near = difflib.get_close_matches(key, _known_keys(model), n=1, cutoff=0.5)
    return f" (did you mean '{near[0]}'?)" if near else f" (known: {', '.join(_known_keys(model))})"


def _refuse_unknown_environment() -> None:
    """pydantic-settings passes over a misspelt variable in silence; we do not."""
    for name in os.environ:
        if not name.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        parts = [part.lower() for part in name[len(ENVIRONMENT_PREFIX) :].split("__")]
        model: type[BaseModel] = Settings
        for depth, part in enumerate(parts):
            if part not in model.model_fields:
                shown = f"unknown environment variable {name}{_nearest(part, model)}"
                raise StartError("config-invalid", shown)
            model = _section_of(tuple(parts[: depth + 1]))
            if parts[0] in ("destination", "peer", "route"):
                break
