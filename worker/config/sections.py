"""The sections of config.toml, each with its keys, their limits and their defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from worker.config.paths import ConfigPath, DatabaseUrl
from worker.dicom.body_parts import BRAIN_TERMS

ENVIRONMENT_PREFIX = "WORKER__"
_KEY_LENGTH = 32  # characters: 128 bits as hexadecimal digits


def _check_ae_title(value: str) -> str:
    # PS3.5 6.2, VR AE: 16 characters at most, no backslash, no control characters, not only spaces.
    if not 1 <= len(value.strip()) <= 16 or "\\" in value or not value.isascii() or not value.isprintable():
        raise ValueError("an AE title has 1 to 16 ASCII characters and no backslash")
    return value.strip()


AeTitle = Annotated[str, AfterValidator(_check_ae_title)]


def _check_origin(value: str) -> str:
    """An origin as browsers send it (RFC 6454 6.2): scheme, host and, unless it is the scheme's own, port."""
    match = re.fullmatch(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?/?", value.strip().lower())
    if match is None:
        raise ValueError("an origin is a scheme and a host, as https://viewer.example or http://10.0.0.5:3000")
    scheme, host, port = match.groups()
    is_usual = port is None or int(port) == {"http": 80, "https": 443}[scheme]
    return f"{scheme}://{host}" + ("" if is_usual else f":{int(port)}")


Origin = Annotated[str, AfterValidator(_check_origin)]


class Section(BaseModel):
    """A table of config.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class WorkerSection(Section):
    """[worker]: the worker's AE title, data directory, model and jobs."""

    ae_title: AeTitle = "AI_WORKER"
    data_dir: ConfigPath = Path("var")
    bundle: ConfigPath | None = None
    inference_processes: int = Field(default=1, ge=1, le=64)
    inference_threads: int = Field(default=0, ge=0, le=256)
    engine: Literal["openvino-int8", "openvino-fp32", "torch"] = "openvino-int8"
    job_timeout_seconds: float = Field(default=600.0, gt=0)
    decoder_seconds: float = Field(default=120.0, gt=0)
    job_memory_bytes: int = Field(default=4 << 30, ge=0)
    job_attempts: int = Field(default=3, ge=1, le=100)
    lease_seconds: float = Field(default=30.0, ge=3)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class TlsPaths(Section):
    """Our certificate and key, and the authority that signs the peer's certificate, as PEM files."""

    tls_certificate: ConfigPath | None = None
    tls_key: ConfigPath | None = None
    tls_authority: ConfigPath | None = None


class TlsFiles(TlsPaths):
    """All three or none: DICOM over TLS has certificates on both sides (PS3.15 B.12)."""

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        files = (self.tls_certificate, self.tls_key, self.tls_authority)
        if any(files) and not all(files):
            raise ValueError("TLS needs tls_certificate, tls_key and tls_authority together")
        return self


class ReceiveSection(TlsFiles):
    """[receive]: the Storage SCP."""

    host: str = "0.0.0.0"
    port: int = Field(default=11112, ge=1, le=65535)
    quiet_seconds: float = Field(default=10.0, ge=0)
    allowed_peers: tuple[AeTitle, ...] = ()
    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    require_called_ae_title: bool = False
    maximum_associations: int = Field(default=64, ge=1)
    maximum_associations_per_address: int = Field(default=48, ge=1)
    maximum_associations_per_ae_title: int = Field(default=32, ge=1)
    reserved_associations: int = Field(default=8, ge=0)
    request_seconds: float = Field(default=5.0, gt=0)
    yield_seconds: float = Field(default=10.0, gt=0)
    maximum_pdu_bytes: int = Field(default=1 << 20, ge=4096)
    idle_seconds: float = Field(default=60.0, gt=0)
    maximum_association_seconds: float = Field(default=14400.0, gt=0)
    maximum_dataset_bytes: int = Field(default=512 << 20, ge=1 << 16)
    memory_bytes: int = Field(default=256 << 20, ge=0)
    settle_on_count: bool = False
    incomplete_seconds: float = Field(default=60.0, ge=0)
    minimum_free_bytes: int = Field(default=256 << 20, ge=0)


class EligibilitySection(Section):
    """[eligibility]: which settled series are classified; the others are refused with the reason."""

    modalities: tuple[str, ...] = ("MR",)
    minimum_slices: int = Field(default=3, ge=1)
    maximum_slices: int = Field(default=2000, ge=1)
    refuse_image_types: tuple[str, ...] = (
        "LOCALIZER", "MOSAIC", "PROJECTION IMAGE", "MIP", "MINIP", "MAX_IP", "MIN_IP", "P", "PHASE", "PHASE MAP",
        "DIFFUSION", "ADC", "EADC", "FA", "TRACEW", "TENSOR", "TENSOR_B0", "PERFUSION", "ASL", "RCBF", "CBF", "RELCBF",
        "CBV", "RCBV", "RELCBV", "MTT", "RELMTT", "TTP", "TMAX", "PBP", "GBP", "T1 MAP", "T2 MAP", "T2_STAR MAP",
        "T2* MAP", "R2 MAP", "R2* MAP", "PD MAP", "B0 MAP", "B1 MAP", "FIELD MAP", "FIELDMAP", "VELOCITY",
        "VELOCITY MAP", "I", "IMAGINARY", "FMRI", "BOLD",
    )  # fmt: skip
    refuse_scanning_sequences: tuple[str, ...] = ("EP",)
    refuse_sequences: tuple[str, ...] = ("localizer", "DWI", "ADC", "perfusion", "angiography", "functional")
    body_parts: tuple[str, ...] = BRAIN_TERMS
    refuse_incomplete: bool = False


class StudySection(Section):
    """[study]: when a study is answered, from the answers for its series."""

    quiet_seconds: float = Field(default=5.0, ge=0)
    incomplete_seconds: float = Field(default=60.0, ge=0)


Level = Literal["study", "series", "both"]
Retrieval = Literal["move", "get"]


class ReportSection(Section):
    """[report]: what is sent back, of studies, series or both."""

    level: Level = "study"
    not_assessed: bool = False


class RetentionSection(Section):
    """[retention]: when received files are deleted, and how fast stored files are checked."""

    pixel_days: float = Field(default=0.0, ge=0)
    scrub_bytes_per_second: int = Field(default=8 << 20, ge=0)


class PrivacySection(Section):
    """[privacy]: what the database stores about a patient; the key comes from the environment."""

    pseudonymise: bool = False
    pseudonym_key: SecretStr = SecretStr("")

    @model_validator(mode="after")
    def _key_is_long_enough(self) -> Self:
        if self.pseudonymise and len(self.pseudonym_key.get_secret_value()) < _KEY_LENGTH:
            variable = f"{ENVIRONMENT_PREFIX}PRIVACY__PSEUDONYM_KEY"
            raise ValueError(f"pseudonymise needs a key of {_KEY_LENGTH} characters or more in {variable}")
        return self


class DatabaseSection(Section):
    """[database]: SQLite by default, PostgreSQL where several machines work together."""

    url: DatabaseUrl = "sqlite:///var/worker.db"


class ApplicationEntity(Protocol):
    """A DICOM application entity with which we request associations: a [[peer]], or a [[destination]] by C-STORE."""

    @property
    def ae_title(self) -> str: ...

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def timeout_seconds(self) -> float: ...

    @property
    def tls_certificate(self) -> Path | None: ...

    @property
    def tls_key(self) -> Path | None: ...

    @property
    def tls_authority(self) -> Path | None: ...


class DestinationSection(Section):
    """The common part of every [[destination]]. Its kinds are subclasses in `worker.send.destinations`."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]

    @classmethod
    def claims(cls, table: Mapping[str, Any]) -> bool:
        """Whether a [[destination]] with these keys is of this kind; the default kind claims nothing."""
        return False

    @property
    def application_entity(self) -> ApplicationEntity | None:
        """The DICOM application entity to which objects are sent; None for another kind of destination."""
        return None


class PeerSection(TlsFiles):
    """A [[peer]]: a sender whose image counts are queried, or a node that may query and retrieve what we hold."""

    ae_title: AeTitle
    host: str = Field(min_length=1)
    port: int = Field(ge=1, le=65535)
    query: bool = False
    may_retrieve: bool = False
    fetch_by: Retrieval = "move"
    timeout_seconds: float = Field(default=5.0, gt=0)


class WebSection(Section):
    """[web]: health, pages and API; by default on loopback, with tokens."""

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=1, le=65535)
    require_token: bool = True
    session_hours: float = Field(default=12.0, gt=0, le=24 * 31)
    stow: bool = False
    stow_maximum_bytes: int = Field(default=4 << 30, ge=1 << 20)
    decoder_processes: int = Field(default=2, ge=1, le=16)
    decoder_seconds: float = Field(default=30.0, gt=0, le=600)
    decoder_memory_bytes: int = Field(default=512 << 20, ge=64 << 20)
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    cors_origins: tuple[Origin, ...] = ()
    tls_certificate: ConfigPath | None = None
    tls_key: ConfigPath | None = None

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TLS needs tls_certificate and tls_key together")
        if not self.require_token and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise ValueError("require_token = false is allowed with host = '127.0.0.1' only")
        if self.cors_origins and not self.require_token:
            raise ValueError("cors_origins needs require_token = true: else any user's page could do everything")
        return self


class AuditSection(TlsFiles):
    """[audit]: the files of the audit trail, and a syslog server that receives a copy over TLS."""

    folder: ConfigPath | None = None
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
