"""What every kind of destination has, and those that are reached by a URL."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from worker.config.settings import load_settings
from worker.send.destinations import destinations_of, kinds
from worker.send.destinations.base import Destination, HttpDestination
from worker.send.destinations.c_store import CStoreDestination
from worker.send.destinations.fhir import FhirDestination
from worker.send.destinations.stow import StowDestination

TABLES: dict[type[Destination], dict[str, Any]] = {
    CStoreDestination: {"ae_title": "PACS", "host": "h", "port": 104},
    StowDestination: {"url": "https://h/dicom-web"},
    FhirDestination: {"url": "https://h/fhir", "fhir": True},
}


def test_every_module_defines_a_kind_and_the_default_comes_first() -> None:
    assert kinds()[0] is CStoreDestination
    assert set(kinds()) == set(TABLES)


def test_a_table_is_claimed_by_one_kind_at_most() -> None:
    for kind, table in TABLES.items():
        claimed = [other for other in kinds() if other.claims(table)]
        assert claimed == ([] if kind is CStoreDestination else [kind])


def test_the_kinds_are_read_without_the_libraries_that_connections_need() -> None:
    """The receiver reads them, too, and never loads numpy."""
    program = (
        "import sys; from worker.send.destinations import kinds; kinds(); "
        "print([name for name in ('pydicom', 'pynetdicom', 'requests', 'numpy', 'sqlalchemy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_configuration_gives_each_entry_its_kind(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        '[[destination]]\nname = "a"\nurl = "https://h/fhir/"\nfhir = true\n'
        '[[destination]]\nname = "b"\nae_title = "PACS"\nhost = "h"\nport = 104\n'
    )
    settings = load_settings(file, kinds())
    assert [type(destination) for destination in destinations_of(settings)] == [FhirDestination, CStoreDestination]
    [entity] = settings.application_entities
    assert entity.ae_title == "PACS"


def test_a_kind_without_one_of_its_methods_cannot_be_made() -> None:
    class Half(Destination):
        def probe(self, ae_title: str) -> None: ...

    with pytest.raises(TypeError, match="abstract"):
        Half(name="half")  # type: ignore[abstract]


@pytest.mark.parametrize("kind", TABLES)
def test_a_lease_is_longer_than_the_timeouts_of_a_store(kind: type[Destination]) -> None:
    assert kind(name="a", timeout_seconds=7, **TABLES[kind]).store_seconds == 14


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "[::1]", "localhost"])
def test_a_token_may_go_unencrypted_over_loopback(host: str) -> None:
    destination = StowDestination(name="a", url=f"http://{host}:8042/dicom-web", bearer_token_variable="TOKEN")
    assert destination.bearer_token_variable == "TOKEN"


@pytest.mark.parametrize("host", ["10.0.0.1", "pacs", "localhost.example", "[fe80::1]"])
def test_a_token_goes_to_no_other_host_unencrypted(host: str) -> None:
    with pytest.raises(ValidationError, match="by https only"):
        StowDestination(name="a", url=f"http://{host}/dicom-web", bearer_token_variable="TOKEN")


@pytest.mark.parametrize("url", ["h/fhir", "file:///etc", "https://", "https://h/?a=b", "https://h/#x"])
def test_a_url_is_that_of_a_service(url: str) -> None:
    with pytest.raises(ValidationError, match="the URL of a service"):
        FhirDestination(name="a", url=url, fhir=True)


def test_only_http_destinations_have_a_url() -> None:
    assert [kind for kind in kinds() if issubclass(kind, HttpDestination)] == [FhirDestination, StowDestination]
