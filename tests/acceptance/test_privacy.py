"""A series with a canary in every text element, through success and failure: where may it be found? (invariant 6)"""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from pydicom import DataElement, Dataset, Sequence, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.uid import MRImageStorage, generate_uid
from pynetdicom import AE
from sqlalchemy import create_engine, text

from tests.testbed import phantom
from tests.testbed.dcmtk import free_port
from tests.testbed.pacs import Behaviour
from tests.testbed.raw_store import raw_store
from tests.testbed.site import Site
from tests.testbed.waiting import patience, wait_until
from worker.db.tables import Base

CANARY = "CANARY"
HEALTH = ("/health", "/health/live", "/health/ready")
SMALL = phantom.Grid(slices=6)
MARKED = [
    "PatientName", "PatientID", "PatientBirthName", "PatientMotherBirthName", "PatientAddress", "PatientComments",
    "OtherPatientIDs", "PatientTelephoneNumbers", "EthnicGroup", "Occupation", "AdditionalPatientHistory",
    "MedicalRecordLocator", "MilitaryRank", "StudyDescription", "SeriesDescription", "StudyID", "AccessionNumber",
    "ReferringPhysicianName", "ReferringPhysicianAddress", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy",
    "OperatorsName", "PerformingPhysicianName", "RequestingPhysician", "RequestingService", "InstitutionName",
    "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "DeviceSerialNumber", "ProtocolName",
    "ImageComments", "DerivationDescription", "RequestedProcedureDescription", "RequestedProcedureID",
    "PerformedProcedureStepDescription", "PerformedProcedureStepID", "AdmittingDiagnosesDescription",
    "IssuerOfPatientID", "CurrentPatientLocation", "AcquisitionComments", "SoftwareVersions", "ManufacturerModelName",
    "Manufacturer",
]  # fmt: skip
# The patient and the study, as the PACS needs them to file what we send (worker.reporting.source_attributes).
IN_OBJECTS = {"PatientName", "PatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName", "StudyDescription"}
IN_OBJECTS |= {"IssuerOfPatientID", "SeriesDescription"}  # of each series that the answer for the study is made of
# An instance keeps its own Patient ID, or pseudonym, so that two patients in one series are seen.
IN_DATABASE = {"series.patient_id", "series.patient_name", "series.accession_number", "series.series_description"}
IN_DATABASE |= {"instance.attributes"}


def _mark(paths: list[Path]) -> list[Path]:
    """Every text element a canary, private ones and those in sequences too."""
    for path in paths:
        ds = dcmread(path)
        for number, keyword in enumerate(MARKED):
            setattr(ds, keyword, f"{CANARY}{number:02d}{'^NAME' if dictionary_VR(keyword) == 'PN' else ''}")
        block = ds.private_block(0x0011, f"{CANARY} MAKER", create=True)
        block.add_new(0x01, "LO", f"{CANARY} PRIVATE")
        item = Dataset()
        item.RequestedProcedureDescription = item.ScheduledProcedureStepDescription = f"{CANARY} NESTED"
        ds.RequestAttributesSequence = Sequence([item])
        ds.save_as(path)
    return paths


def _cut_short(paths: list[Path]) -> list[Path]:
    for path in paths:
        ds = dcmread(path)
        ds.PixelData = ds.PixelData[:64]
        ds.save_as(path)
    return paths


def _push_and_lose_a_file(hospital: Site, paths: list[Path]) -> Dataset:
    """A job that is parked: a received file is gone before the series settles, because its association is open."""
    source = dcmread(paths[0])
    ae = AE(ae_title="PACS")
    ae.add_requested_context(source.SOPClassUID, source.file_meta.TransferSyntaxUID)
    assoc = ae.associate("127.0.0.1", hospital.worker.port, ae_title="AI_WORKER")
    for path in paths:
        assert assoc.send_c_store(dcmread(path)).Status == 0x0000
    [(stored,)] = hospital.worker.rows(f"SELECT path FROM instance WHERE sop_instance_uid = '{source.SOPInstanceUID}'")
    (hospital.worker.folder / "var" / stored).unlink()
    assoc.release()
    return source


def _marked_elements(ds: Dataset) -> set[str]:
    def elements(ds: Dataset) -> Iterator[DataElement]:
        for element in ds:
            if element.VR == "SQ":
                for item in element.value:
                    yield from elements(item)
            else:
                yield element

    return {element.keyword or str(element.tag) for element in elements(ds) if CANARY in str(element.value)}


def _marked_columns(url: str) -> set[str]:
    """table.column of every value in the database that holds a canary."""
    found = set()
    engine = create_engine(url)
    with engine.connect() as connection:
        for table in Base.metadata.sorted_tables:
            for row in connection.execute(text(f'SELECT * FROM "{table.name}"')).mappings():
                found |= {f"{table.name}.{name}" for name, value in row.items() if CANARY in str(value)}
    engine.dispose()
    return found


def _titles() -> str:
    """What every process of this machine shows of itself."""
    shown = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                shown += [(entry / name).read_text(errors="replace") for name in ("cmdline", "comm")]
            except OSError:
                continue
    return "\n".join(shown)


@pytest.fixture
def sources(hospital: Site, tmp_path: Path) -> list[Dataset]:
    """The marked series, each at its end: classified (after a PACS that refused), refused, not read, parked."""
    good = _mark(phantom.head_series(tmp_path / "good", grid=SMALL))
    hospital.pacs.behaviour, hospital.pacs.status = Behaviour.REFUSE, 0xC000
    try:
        sent = [hospital.push(good)]
        refused_there = "SELECT count(*) FROM delivery WHERE rejections > 0"
        wait_until(lambda: hospital.worker.rows(refused_there)[0][0], "the PACS to refuse", seconds=120)
    finally:
        hospital.pacs.behaviour, hospital.pacs.status = Behaviour.ACCEPT, 0xA700
    sent.append(hospital.push(_mark(phantom.head_series(tmp_path / "refused", grid=phantom.Grid(slices=1)))))
    sent.append(hospital.push(_cut_short(_mark(phantom.head_series(tmp_path / "bad", grid=SMALL)))))
    lost = _mark(phantom.head_series(tmp_path / "lost", grid=SMALL))
    sent.append(_push_and_lose_a_file(hospital, lost))
    raw_store(hospital.worker.port, MRImageStorage, generate_uid(), good[0].read_bytes())  # a file is no dataset
    first, *others = [_end(hospital, source) for source in sent]
    assert first in ("classified", "not-assessed")
    assert others == ["refused", "not-assessed", "failed"]
    return sent


def _end(hospital: Site, source: Dataset) -> str:
    """What became of a series."""
    status = (
        f"SELECT status FROM series WHERE series_instance_uid = '{source.SeriesInstanceUID}' AND status != 'pending'"
    )
    return str(wait_until(lambda: hospital.worker.rows(status), "the series to end", seconds=120)[0][0])


def test_a_canary_is_found_only_where_it_must_be(hospital: Site, sources: list[Dataset], tmp_path: Path) -> None:
    worker = hospital.worker
    uids = [str(uid) for one in sources for uid in (one.SOPInstanceUID, one.SeriesInstanceUID, one.StudyInstanceUID)]
    token = worker.run("tokens", "add", "--role", "read").stdout.strip()
    with httpx.Client(base_url=f"http://127.0.0.1:{worker.web_port}", timeout=patience(30)) as client:
        health = [client.get(path).text for path in HEALTH]
        metrics = client.get("/metrics", headers={"Authorization": f"Bearer {token}"}).raise_for_status().text
    pushed = worker.run("push", str(tmp_path / "good"), "--to", f"127.0.0.1:{free_port()}")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "cut.dcm").write_bytes((tmp_path / "good" / "IM0001.dcm").read_bytes()[:700])
    unread = worker.run("classify", str(tmp_path / "broken"))
    assert (pushed.returncode, unread.returncode) == (1, 2)
    places = {
        "log": worker.log.read_text(errors="replace"),
        "health": "\n".join(health),
        "metrics": metrics,
        "errors of commands": pushed.stdout + pushed.stderr + unread.stdout + unread.stderr,
        "process titles": _titles(),
    }
    assert places["log"].strip()
    for place, content in places.items():
        assert CANARY not in content, place
        assert [uid for uid in uids if uid in content] == [], place

    trail = [path.read_text() for path in (worker.folder / "var" / "audit").rglob("*") if path.is_file()]
    assert trail  # it names studies by UID, and patients only where [audit] patient_ids asks for it
    assert CANARY not in "".join(trail)
    assert _marked_columns(f"sqlite:///{worker.folder}/var/worker.db") == IN_DATABASE
    answer = hospital.answer(sources[0])
    objects = [dcmread(BytesIO(content)) for content in (*answer.reports.values(), *answer.pictures.values())]
    assert [_marked_elements(ds) for ds in objects] == [IN_OBJECTS] * 2
