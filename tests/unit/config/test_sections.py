"""What a section of the configuration accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from worker.config.sections import (
    AuditSection,
    DestinationSection,
    PeerSection,
    PrivacySection,
    ReceiveSection,
    WebSection,
    WorkerSection,
)

PEER = {"ae_title": "PACS", "host": "pacs", "port": 104}
TLS = {name: Path("file.pem") for name in ("tls_certificate", "tls_key", "tls_authority")}


@pytest.mark.parametrize("title", ["A", "SIXTEEN_LETTERS_", "WITH SPACE", "  PADDED  ", "x-y_z.9"])
def test_ae_titles_that_are_accepted(title: str) -> None:
    assert WorkerSection(ae_title=title).ae_title == title.strip()


@pytest.mark.parametrize("title", ["", "   ", "SEVENTEEN_LETTERS", "BACK\\SLASH", "TÜR", "NEW\nLINE"])
def test_ae_titles_that_are_rejected(title: str) -> None:
    """PS3.5 6.2, VR AE."""
    with pytest.raises(ValidationError, match="16 ASCII characters"):
        WorkerSection(ae_title=title)


@pytest.mark.parametrize("section", [ReceiveSection, AuditSection, lambda **files: PeerSection(**PEER, **files)])
def test_dicom_tls_needs_all_three_files(section: Any) -> None:
    section(**TLS)
    section()
    for missing in TLS:
        with pytest.raises(ValidationError, match="together"):
            section(**{name: file for name, file in TLS.items() if name != missing})


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (WebSection, {"tls_certificate": Path("web.pem")}, "together"),
        (WebSection, {"tls_key": Path("key.pem")}, "together"),
        (WebSection, {"require_token": False, "host": "0.0.0.0"}, "require_token"),
        (WebSection, {"require_token": False, "cors_origins": ["https://viewer.example"]}, "require_token"),
        (WebSection, {"cors_origins": ["*"]}, "origin"),
        (WebSection, {"cors_origins": ["null"]}, "origin"),
        (WebSection, {"cors_origins": ["https://viewer.example/path"]}, "origin"),
        (WebSection, {"cors_origins": ["viewer.example"]}, "origin"),
        (PrivacySection, {"pseudonymise": True}, "WORKER__PRIVACY__PSEUDONYM_KEY"),
        (PrivacySection, {"pseudonymise": True, "pseudonym_key": "x" * 31}, "32 characters"),
        (AuditSection, {"syslog_host": "log.example"}, "syslog_host"),
        (ReceiveSection, {"port": 0}, "port"),
        (ReceiveSection, {"allowed_networks": ["10.1.0.1/16"]}, "allowed_networks"),
        (ReceiveSection, {"maximum_pdu_bytes": 4095}, "maximum_pdu_bytes"),
        (PeerSection, {**PEER, "timeout_seconds": 0}, "timeout_seconds"),
        (DestinationSection, {"name": "with space"}, "name"),
        (WorkerSection, {"data_dirr": "x"}, "data_dirr"),
    ],
)
def test_values_that_are_rejected(section: type[BaseModel], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        section.model_validate(values)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_no_token_is_needed_on_loopback_only(host: str) -> None:
    assert not WebSection(host=host, require_token=False).require_token


def test_a_section_cannot_be_changed_and_hides_its_key() -> None:
    section = PrivacySection(pseudonymise=True, pseudonym_key="k" * 32)
    with pytest.raises(ValidationError, match="frozen"):
        section.pseudonymise = False  # type: ignore[misc]
    assert "kkk" not in repr(section)


def test_a_destination_of_no_kind_claims_nothing_and_is_no_application_entity() -> None:
    assert not DestinationSection.claims({"url": "https://h"})
    assert DestinationSection(name="a").application_entity is None


def test_an_origin_is_written_as_browsers_send_it() -> None:
    given = ["https://Viewer.Example:443/", "http://10.0.0.5:3000", "http://[::1]:80"]
    assert WebSection(cors_origins=given).cors_origins == (  # type: ignore[arg-type]
        "https://viewer.example", "http://10.0.0.5:3000", "http://[::1]",
    )  # fmt: skip
