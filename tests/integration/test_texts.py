"""Text of received images as it is shown everywhere: database, C-FIND, QIDO-RS, metadata, report and FHIR."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from tests.testbed.answered import answer
from tests.testbed.databases import make_tables
from tests.testbed.dcmtk import free_port
from tests.testbed.filled import served
from tests.testbed.instances import mr_instance, received
from tests.testbed.names import OTHER_NAMES, STANDARD_NAMES, set_raw
from tests.testbed.waiting import patience
from worker.config.settings import Settings
from worker.db import tokens
from worker.db.engine import Database
from worker.db.tables import TokenRole
from worker.db.views.search import Search, find_series
from worker.dicom.odd_values import add_value
from worker.dicom.standard import derive_uid
from worker.query_retrieve.scp import QueryRetrieveScp
from worker.receive.storage_scp import Receiver
from worker.reporting.fhir_resources import report_as_bundle
from worker.storage.keeper import InstanceKeeper
from worker.web.app import create_app

FIND = StudyRootQueryRetrieveInformationModelFind
CAPITALS = [
    ("ISO_IR 100", "MÜLLER^JÖRG".encode("latin-1"), "MÜLLER^JÖRG"),
    ("ISO_IR 144", "ИВАНОВ^ПЁТР".encode("iso8859-5"), "ИВАНОВ^ПЁТР"),
    ("ISO_IR 148", "IŞIK^İBRAHİM".encode("iso8859-9"), "IŞIK^İBRAHİM"),
]
NAMES = [*STANDARD_NAMES, *OTHER_NAMES, *CAPITALS]
ACCESSION, PATIENT_ID = "ACC-2026-0000012345", "HOSPITAL-WEST-" + "7" * 60


@dataclass(frozen=True)
class Site:
    database: Database
    folder: Path
    port: int
    reader: httpx.Client


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A study for each name, and one with a report whose numbers are longer than their VRs allow."""
    folder = tmp_path_factory.mktemp("texts")
    settings = Settings.model_validate(
        {
            "worker": {"data_dir": folder},
            "database": {"url": f"sqlite:///{folder / 'worker.db'}"},
            "receive": {"host": "127.0.0.1", "port": free_port(), "minimum_free_bytes": 0},
            "peer": [{"ae_title": "VIEWER", "host": "127.0.0.1", "port": 9, "may_retrieve": True}],
        }
    )
    database = Database(settings.database.url)
    make_tables(database)
    keeper = InstanceKeeper(database, folder, lambda: datetime.now(UTC), 0)
    for number, (character_set, raw, _) in enumerate(NAMES):
        keeper.keep(received(named(number, character_set, raw)))
    keeper.close()
    with pytest.warns(UserWarning, match="exceeds the maximum length"):
        answer(database, folder, "long", 1, AccessionNumber=ACCESSION, PatientID=PATIENT_ID)
    with database.write() as session:
        _, token = tokens.add_token(session, "reader", TokenRole.READ, datetime.now(UTC), None)
    receiver = Receiver(
        settings, database, lambda: datetime.now(UTC), lambda _: None, QueryRetrieveScp(settings, database).handlers()
    )
    receiver.start()
    with (
        served(create_app(settings, database)) as address,
        httpx.Client(base_url=address, timeout=patience(60)) as reader,
    ):
        reader.headers["Authorization"] = f"Bearer {token}"
        yield Site(database, folder, settings.receive.port, reader)
    receiver.stop(1)
    database.close()


def named(number: int, character_set: str | None, raw: bytes) -> Dataset:
    ds = mr_instance(1, f"name {number}", StudyID="")
    if character_set is not None:
        set_raw(ds, "SpecificCharacterSet", character_set.encode(), "CS")
    set_raw(ds, "PatientName", raw, "PN")
    return ds


def find(site: Site, **keys: str) -> list[Dataset]:
    ds = Dataset()
    ds.SpecificCharacterSet, ds.QueryRetrieveLevel = "ISO_IR 192", "STUDY"
    for keyword in ("StudyInstanceUID", "PatientName", "PatientID", "AccessionNumber"):
        add_value(ds, keyword, keys.get(keyword))
    ae = AE(ae_title="VIEWER")
    ae.add_requested_context(FIND)
    assoc = ae.associate("127.0.0.1", site.port, ae_title="AI_WORKER")
    answers = [response for _, response in assoc.send_c_find(ds, FIND) if response is not None]
    assoc.release()
    return answers


def qido(site: Site, path: str = "studies", **keys: str) -> list[dict[str, Any]]:
    answered = site.reader.get(f"/dicom-web/{path}", params=keys, headers={"Accept": "application/dicom+json"})
    return [] if answered.status_code == 204 else list(answered.json())


def name_of(result: dict[str, Any]) -> str:
    groups = result["00100010"]["Value"][0]
    return "=".join(groups.get(group, "") for group in ("Alphabetic", "Ideographic", "Phonetic")).rstrip("=")


@pytest.mark.parametrize("number", range(len(NAMES)), ids=[ascii(name) for _, _, name in NAMES])
def test_a_name_is_found_and_shown_as_it_was_sent(site: Site, number: int) -> None:
    name, study = NAMES[number][2], derive_uid("study", f"name {number}")
    by_name = {str(response.StudyInstanceUID): str(response.PatientName) for response in find(site, PatientName=name)}
    assert by_name[study] == name
    results = {result["0020000D"]["Value"][0]: name_of(result) for result in qido(site, PatientName=name)}
    assert results == by_name
    [metadata] = qido(site, f"studies/{study}/metadata")
    assert name_of(metadata) == name


@pytest.mark.filterwarnings("ignore:The value length")  # of what this test reads
def test_numbers_longer_than_their_vr_are_kept_whole_and_left_out_of_the_report(site: Site) -> None:
    study = derive_uid("study", "long")
    [response] = find(site, AccessionNumber=ACCESSION, PatientID=PATIENT_ID)
    assert (response.AccessionNumber, response.PatientID) == (ACCESSION, PATIENT_ID)
    assert find(site, AccessionNumber=ACCESSION[:16]) == find(site, PatientID=PATIENT_ID[:64]) == []
    [result] = qido(site, AccessionNumber=ACCESSION)
    assert (result["00080050"]["Value"], result["00100020"]["Value"]) == ([ACCESSION], [PATIENT_ID])
    instances = qido(site, f"studies/{study}/metadata")
    image, *produced = sorted(instances, key=lambda instance: instance["00080060"]["Value"] != ["MR"])
    assert (image["00080050"]["Value"], image["00100020"]["Value"]) == ([ACCESSION], [PATIENT_ID])
    assert produced
    with site.database.read() as session:
        [row] = find_series(session, Search(text="0000012345"))
    assert (row.accession_number, row.patient_id) == (ACCESSION, PATIENT_ID)
    objects = [dcmread(file) for file in (site.folder / "objects").rglob("*.dcm")]
    assert {(ds.AccessionNumber, ds.PatientID, ds.StudyInstanceUID) for ds in objects} == {("", "", study)}
    bundle = report_as_bundle(next(ds for ds in objects if ds.Modality == "SR"))
    assert ACCESSION[:16] not in bundle
    assert PATIENT_ID[:64] not in bundle
