"""The Query/Retrieve SCP on the port of the Storage SCP, with DCMTK, pynetdicom and Orthanc as peers."""

from __future__ import annotations

import re
import socket
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.tag import Tag
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
)
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import (
    PatientRootQueryRetrieveInformationModelFind,
    PatientRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
from sqlalchemy import select

from tests.faults import wire
from tests.testbed import bombs, dcmtk, orthanc
from tests.testbed.answered import answer
from tests.testbed.certificates import make_certificates
from tests.testbed.databases import make_tables
from tests.testbed.dcmtk import free_port
from tests.testbed.instances import mr_instance, received
from tests.testbed.pacs import Behaviour, Pacs
from tests.testbed.waiting import patience
from worker.audit.messages import AuditEvent
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.results import NewObject
from worker.db.tables import InstanceRow, SeriesRow
from worker.dicom.odd_values import add_value
from worker.dicom.standard import derive_uid
from worker.query_retrieve import scp
from worker.query_retrieve.identifiers import Identifier
from worker.query_retrieve.scp import QueryRetrieveScp
from worker.receive.storage_scp import Receiver
from worker.send.destinations.c_store import CStoreDestination
from worker.storage.acceptance import StoreRequest
from worker.storage.keeper import InstanceKeeper

needs_dcmtk = pytest.mark.skipif(not dcmtk.installed("getscu"), reason="DCMTK is not installed")
STUDY = str(mr_instance(1, "a").StudyInstanceUID)
SERIES = str(mr_instance(1, "a").SeriesInstanceUID)
FIND = StudyRootQueryRetrieveInformationModelFind
MOVE = StudyRootQueryRetrieveInformationModelMove


@dataclass
class Site:
    """Two studies of three images with a report and a picture, the first with key objects too; a compressed image."""

    port: int
    data: Path
    pacs: Pacs
    objects: list[NewObject]
    rle: bytes  # the file of a single image of a third study
    audited: list[AuditEvent] = field(default_factory=list)
    services: QueryRetrieveScp | None = None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("archive")
    database = Database(f"sqlite:///{folder / 'worker.db'}")
    make_tables(database)
    objects = answer(database, folder, "a", 3, key_objects_to=("pacs",))
    answer(database, folder, "b", 3, PatientName="Müller^Änne", PatientID="B-1", StudyDate="20250101")
    names = {
        "PatientName": "Zoe",
        "ReferringPhysicianName": "Adams^John=亞當斯^約翰",
        "SpecificCharacterSet": "ISO_IR 192",
    }
    rle = compressed(mr_instance(1, "rle", StudyTime="090000", PatientID="Z", SeriesNumber=7, **names))
    keeper = InstanceKeeper(database, folder, lambda: datetime.now(UTC), 0)
    keeper.keep(rle)
    keeper.close()
    audited: list[AuditEvent] = []
    with Pacs() as pacs:
        settings = Settings.model_validate(
            {
                "worker": {"data_dir": folder},
                "receive": {"host": "127.0.0.1", "port": free_port(), "minimum_free_bytes": 0},
                "destination": [CStoreDestination(name="pacs", ae_title="PACS", host="127.0.0.1", port=pacs.port)],
                "peer": [
                    {"ae_title": "VIEWER", "host": "127.0.0.1", "port": 9, "may_retrieve": True},
                    {"ae_title": "ELSEWHERE", "host": "127.0.0.2", "port": 9, "may_retrieve": True},
                    {"ae_title": "SENDER", "host": "127.0.0.1", "port": 9},
                ],
            }
        )
        services = QueryRetrieveScp(settings, database, audited.append)
        receiver = Receiver(settings, database, lambda: datetime.now(UTC), audited.append, services.handlers())
        receiver.start()
        yield Site(settings.receive.port, folder, pacs, objects, rle.encoded, audited, services)
        receiver.stop(1)
    database.close()


def compressed(ds: Dataset) -> StoreRequest:
    plain = dcmread(BytesIO(received(ds).encoded))
    plain.compress(RLELossless, generate_instance_uid=False)
    buffer = BytesIO()
    plain.save_as(buffer, enforce_file_format=True)
    return StoreRequest(plain.SOPClassUID, plain.SOPInstanceUID, RLELossless, buffer.getvalue(), None)


@pytest.fixture(autouse=True)
def _as_before(site: Site) -> None:
    site.pacs.behaviour, site.pacs.accept_sop_classes = Behaviour.ACCEPT, None
    site.pacs.stored.clear()
    site.audited.clear()


def identifier(level: str, **keys: Any) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        add_value(ds, keyword, value)
    return ds


@contextmanager
def associated(
    site: Site,
    *models: str,
    calling: str = "VIEWER",
    roles: Sequence[str] = (),
    handlers: Sequence[Any] = (),
    syntax: str = ExplicitVRLittleEndian,
) -> Iterator[Any]:
    ae = AE(ae_title=calling)
    for model in models:
        ae.add_requested_context(model)
    for role in roles:
        ae.add_requested_context(role, syntax)
    neg = [build_role(role, scp_role=True) for role in roles]
    assoc = ae.associate("127.0.0.1", site.port, ae_title="AI_WORKER", ext_neg=neg, evt_handlers=list(handlers))
    try:
        yield assoc
    finally:
        if assoc.is_established:
            assoc.release()


def find(site: Site, ds: Dataset, model: str = FIND) -> tuple[list[int], list[Dataset]]:
    """The statuses, and the identifiers that came with them."""
    with associated(site, model) as assoc:
        answers = list(assoc.send_c_find(ds, model))
    return [int(status.Status) for status, _ in answers], [response for _, response in answers if response is not None]


# --- C-FIND ----------------------------------------------------------------------------------------------------


@needs_dcmtk
def test_findscu_finds_studies_series_and_instances(site: Site) -> None:
    def findscu(level: str, *keys: str) -> str:
        options = [option for key in (f"QueryRetrieveLevel={level}", *keys) for option in ("-k", key)]
        return dcmtk.run("findscu", "-S", "-aet", "VIEWER", "-aec", "AI_WORKER", *options, "127.0.0.1", str(site.port))

    studies = findscu("STUDY", "StudyInstanceUID", "PatientName=FAMILY*", "ModalitiesInStudy", "StudyTime")
    assert studies.count("Find Response:") == 1
    assert STUDY in studies
    assert r"KO\MR\OT\SR" in studies
    assert "120000" in studies  # of a file's header
    series = findscu("SERIES", f"StudyInstanceUID={STUDY}", "SeriesInstanceUID", "Modality", "SeriesNumber")
    assert set(re.findall(r"CS \[(MR|OT|SR|KO) *\]", series)) == {"MR", "OT", "SR", "KO"}
    images = findscu("IMAGE", f"StudyInstanceUID={STUDY}", f"SeriesInstanceUID={SERIES}", "SOPInstanceUID", "Rows")
    assert images.count("Find Response:") == 3


@pytest.mark.skipif(not dcmtk.installed("openssl"), reason="openssl is not installed")
def test_findscu_asks_over_tls(site: Site, tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    certificate, key = certificates.files("peer")
    tls = {"tls_certificate": certificate, "tls_key": key, "tls_authority": certificates.authority}
    database = Database(f"sqlite:///{site.data / 'worker.db'}")
    settings = Settings.model_validate(
        {
            "worker": {"data_dir": site.data},
            "receive": {"host": "127.0.0.1", "port": free_port(), "minimum_free_bytes": 0, **tls},
            "peer": [{"ae_title": "VIEWER", "host": "127.0.0.1", "port": 9, "may_retrieve": True}],
        }
    )
    handlers = QueryRetrieveScp(settings, database, site.audited.append).handlers()
    receiver = Receiver(settings, database, lambda: datetime.now(UTC), site.audited.append, handlers)
    receiver.start()
    try:
        keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}", "-k", "PatientName"]
        asking = ["-S", "-aet", "VIEWER", "-aec", "AI_WORKER", *keys, "127.0.0.1", str(settings.receive.port)]
        with_certificate = ["+tls", key, certificate, "+cf", certificates.authority]
        assert dcmtk.run("findscu", *with_certificate, *asking).count("Find Response:") == 1
        with pytest.raises(RuntimeError, match="findscu exited"):
            dcmtk.run("findscu", *asking)
    finally:
        receiver.stop(1)
        database.close()


@pytest.mark.parametrize(
    ("keys", "count"),
    [
        ({}, 3),
        ({"PatientID": "*"}, 3),
        ({"PatientID": "ID-?"}, 1),
        ({"PatientID": "id-a"}, 0),
        ({"PatientName": "müller*"}, 1),
        ({"PatientName": "müller^änne"}, 1),
        ({"StudyDate": "20260101-"}, 2),
        ({"StudyDate": "-20251231"}, 1),
        ({"StudyDate": "20240101-20270101"}, 3),
        ({"StudyInstanceUID": [STUDY, "1.2.3"]}, 1),
        ({"ModalitiesInStudy": "KO"}, 1),
        ({"ModalitiesInStudy": "K*"}, 1),
        ({"StudyTime": "1130-1230"}, 2),
        ({"StudyTime": "13-"}, 0),
        ({"StudyID": "2"}, 0),
        ({"PatientSex": "F", "AccessionNumber": "ACC-a"}, 1),
        ({"ReferringPhysicianName": "adams^john"}, 1),
        ({"ReferringPhysicianName": "亞當斯^約翰"}, 1),
        ({"ReferringPhysicianName": "亞*=*"}, 0),
    ],
)
def test_studies_match_as_the_standard_says(site: Site, keys: dict[str, Any], count: int) -> None:
    ds = identifier("STUDY", **{"StudyInstanceUID": "", **keys})
    ds.SpecificCharacterSet = "ISO_IR 192"
    statuses, found = find(site, ds)
    assert statuses == [0xFF00] * count + [0x0000]
    assert len(found) == count


@pytest.mark.parametrize(("number", "count"), [("7", 1), ("7.0", 1), ("07", 1), ("70", 0)])
def test_a_number_matches_however_it_is_written(site: Site, number: str, count: int) -> None:
    study = str(mr_instance(1, "rle").StudyInstanceUID)
    _, found = find(site, identifier("SERIES", StudyInstanceUID=study, SeriesInstanceUID="", SeriesNumber=number))
    assert len(found) == count


def test_a_name_is_answered_in_utf_8(site: Site) -> None:
    _, [found] = find(site, identifier("STUDY", PatientID="B-1", PatientName="", StudyDescription=""))
    assert (found.SpecificCharacterSet, str(found.PatientName)) == ("ISO_IR 192", "Müller^Änne")
    assert (found.StudyDescription, found.RetrieveAETitle, found.InstanceAvailability) == ("", "AI_WORKER", "ONLINE")


def test_report_and_key_objects_are_found_by_what_they_are(site: Site) -> None:
    keys = {"StudyInstanceUID": STUDY, "Modality": ["SR", "KO"], "SeriesInstanceUID": "", "SeriesDescription": ""}
    _, series = find(site, identifier("SERIES", **keys, NumberOfSeriesRelatedInstances=""))
    assert {response.Modality for response in series} == {"SR", "KO"}
    assert {response.NumberOfSeriesRelatedInstances for response in series} == {1}
    assert all(response.SeriesDescription.startswith("AI brain MRI") for response in series)
    report = next(response for response in series if response.Modality == "SR")
    concept = Dataset()
    concept.CodeValue, concept.CodingSchemeDesignator = "126000", "DCM"
    unique = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": report.SeriesInstanceUID, "SOPInstanceUID": ""}
    _, [found] = find(site, identifier("IMAGE", **unique, ConceptNameCodeSequence=[concept], CompletionFlag=""))
    assert (found.SOPInstanceUID, found.CompletionFlag) == (site.objects[0].sop_instance_uid, "COMPLETE")
    assert found.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurement Report"
    concept.CodeValue = "111036"
    assert find(site, identifier("IMAGE", **unique, ConceptNameCodeSequence=[concept]))[0] == [0x0000]


def test_patient_root_begins_at_the_patient(site: Site) -> None:
    _, found = find(
        site, identifier("PATIENT", PatientID="", PatientSex=""), PatientRootQueryRetrieveInformationModelFind
    )
    assert {(response.PatientID, response.PatientSex) for response in found} == {
        ("ID-a", "F"),
        ("B-1", "F"),
        ("Z", "F"),
    }
    below = identifier("STUDY", PatientID="B-1", StudyInstanceUID="")
    assert len(find(site, below, PatientRootQueryRetrieveInformationModelFind)[1]) == 1


@pytest.mark.parametrize(
    "ds",
    [
        identifier("PATIENT", PatientID="ID-a"),  # not of Study Root
        identifier("FRAME"),
        Dataset({Tag(0x00100020): identifier("STUDY", PatientID="ID-a")[0x00100020]}),
        identifier("SERIES", SeriesInstanceUID=""),
        identifier("IMAGE", StudyInstanceUID=STUDY, SOPInstanceUID=""),
        identifier("SERIES", StudyInstanceUID=[STUDY, "1.2.3"], SeriesInstanceUID=""),
    ],
    ids=["level of another model", "unknown level", "no level", "no study", "no series", "two studies"],
)
def test_an_identifier_that_is_no_question_of_the_model_is_refused(site: Site, ds: Dataset) -> None:
    assert find(site, ds)[0] == [0xA900]


def test_a_key_that_is_not_supported_is_warned_of(site: Site) -> None:
    statuses, [found] = find(site, identifier("STUDY", StudyInstanceUID=STUDY, PatientComments="x"))
    assert statuses == [0xFF01, 0x0000]
    assert "PatientComments" not in found


_QUESTION = {0x00080052: b"STUDY ", 0x0020000D: b""}
_LIMIT = 2_000_000  # bytes of an identifier, a little below what is read
_BOMBS: dict[str, tuple[bytes, int]] = {
    **{
        name: (bombs.implicit_elements(_QUESTION | {tag: value * (_LIMIT // len(value))}), status)
        for name, tag, value, status in (
            ("backslashes", 0x00100020, b"\\", 0xC000),
            ("names", 0x00100010, b"A^\\", 0xC000),
            ("UIDs", 0x0020000D, b"1.2\\", 0xC000),
            ("numbers", 0x00201206, b"1\\", 0xC000),
            ("character sets", 0x00080005, b"A\\", 0xC000),
            ("a name of many groups", 0x00100010, b"^=", 0xA900),
            ("wildcards", 0x00100010, b"*a", 0xA900),
        )
    },
    "sequences within one another": (bombs.nested(10_000), 0xC000),
    "empty items": (bombs.undefined(0x0040A043, b"SQ", bombs.EMPTY_ITEM * (_LIMIT // 8)), 0xC000),
    "elements": (b"".join(bombs.element(0x00090000 + n, b"LO", b"") for n in range(40_000)), 0xC000),
}


@pytest.mark.parametrize("name", _BOMBS)
def test_an_identifier_that_is_a_bomb_is_answered_with_a_failure(site: Site, name: str) -> None:
    """tests/unit/dicom/test_header.py counts what reading such identifiers takes."""
    content, status = _BOMBS[name]
    syntax = ImplicitVRLittleEndian if content[4:6] == b"\6\0" else ExplicitVRLittleEndian
    with wire.Wire(site.port, patience(60)) as peer:
        [context] = peer.associate([(FIND, syntax)], calling=b"VIEWER")
        for is_command, part in ((True, wire.find_command(FIND)), (False, content)):
            for each in wire.data_pdus(context, part, is_command):
                peer.send(each)
        kind, body = peer.receive()
        assert (kind, wire.status_of(body)) == (wire.DATA, status)
        peer.release()
    assert find(site, identifier("STUDY", StudyInstanceUID=STUDY))[0] == [0xFF00, 0x0000]


@pytest.mark.parametrize("how", ["cancel", "cut"])
def test_a_query_that_is_given_up_ends(site: Site, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    assert site.services is not None
    pages = QueryRetrieveScp._pages

    def endless(self: QueryRetrieveScp, query: Identifier) -> Iterator[Any]:
        while True:
            yield from pages(self, query)

    monkeypatch.setattr(QueryRetrieveScp, "_pages", endless)
    with associated(site, FIND) as assoc:
        statuses = []
        for status, _ in assoc.send_c_find(identifier("STUDY", StudyInstanceUID=""), FIND, msg_id=7):
            statuses.append(status.get("Status"))
            if len(statuses) > 1:
                continue
            if how == "cut":
                assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
            else:
                assoc.send_c_cancel(7, query_model=FIND)
    assert statuses[-1] == (0xFE00 if how == "cancel" else None)
    taken = [site.services._searches.acquire(timeout=patience(60)) for _ in range(scp.OPERATIONS_AT_ONCE)]
    for _ in taken:
        site.services._searches.release()
    assert all(taken)


def test_too_many_operations_at_once_are_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert site.services is not None
    monkeypatch.setattr(scp, "WAIT_FOR_A_SLOT_SECONDS", 0.01)
    semaphores = (site.services._searches, site.services._retrievals)
    taken = [(slots, slots.acquire()) for slots in semaphores for _ in range(scp.OPERATIONS_AT_ONCE)]
    try:
        assert find(site, identifier("STUDY", StudyInstanceUID=STUDY))[0] == [0xA700]
        assert move(site, identifier("STUDY", StudyInstanceUID=STUDY))[-1].Status == 0xA701
    finally:
        for slots, _ in taken:
            slots.release()
    assert find(site, identifier("STUDY", StudyInstanceUID=STUDY))[0] == [0xFF00, 0x0000]


# --- who -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calling", ["SENDER", "STRANGER", "ELSEWHERE"])
def test_who_may_not_retrieve_is_offered_nothing(site: Site, calling: str) -> None:
    with associated(site, FIND, MRImageStorage, calling=calling, roles=[Comprehensive3DSRStorage]) as assoc:
        accepted = {context.abstract_syntax: context.as_scp for context in assoc.accepted_contexts}
        assert accepted == {MRImageStorage: False, Comprehensive3DSRStorage: False}
    assert [event.description for event in site.audited if event.description] == ["may_retrieve"]


def test_a_report_that_was_retrieved_may_come_back(site: Site) -> None:
    report = dcmread(site.data / site.objects[0].path)
    with associated(site, FIND, Comprehensive3DSRStorage) as assoc:
        assert assoc.send_c_store(report).Status == 0x0000


# --- C-MOVE ----------------------------------------------------------------------------------------------------


def move(site: Site, ds: Dataset, to: str = "PACS") -> list[Dataset]:
    """The responses, each with its counts."""
    with associated(site, MOVE) as assoc:
        return [status for status, _ in assoc.send_c_move(ds, to, MOVE)]


@needs_dcmtk
def test_movescu_has_a_study_sent_as_it_is_stored(site: Site) -> None:
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"]
    names = ["-aet", "VIEWER", "-aec", "AI_WORKER", "-aem", "PACS"]
    dcmtk.run("movescu", "-S", *names, *keys, "127.0.0.1", str(site.port))
    assert len(site.pacs.stored) == 6  # three images, report, picture, key objects
    for produced in site.objects:
        file = site.data / produced.path
        assert bytes_of(site.pacs.stored[produced.sop_instance_uid]) == bytes_of(file.read_bytes())


def bytes_of(file: bytes) -> bytes:
    """The dataset of a DICOM file, as it is encoded."""
    return file[144 + int.from_bytes(file[140:144], "little") :]


def test_the_counts_of_a_move_tell_how_far_it_is(site: Site) -> None:
    ds = identifier("SERIES", StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES)
    seen = [
        (response.Status, response.get("NumberOfRemainingSuboperations"), response.NumberOfCompletedSuboperations)
        for response in move(site, ds)
    ]
    assert seen == [(0xFF00, 2, 1), (0xFF00, 1, 2), (0x0000, None, 3)]
    [sent] = [event for event in site.audited if event.id.value == "110104"]
    assert [participant.user_id for participant in sent.participants] == ["AI_WORKER", "PACS", "VIEWER"]
    assert sent.subjects[0].sop_classes == ((MRImageStorage, 3),)


@pytest.mark.parametrize(
    ("ds", "to", "status"),
    [
        (identifier("STUDY", StudyInstanceUID=STUDY), "NOBODY", 0xA801),
        (identifier("STUDY", StudyInstanceUID=STUDY), "SENDER", 0xA702),  # it is known, and does not listen
        (identifier("STUDY", StudyInstanceUID="1.2.3"), "PACS", 0x0000),
        (identifier("STUDY"), "PACS", 0xA900),
        (identifier("STUDY", StudyInstanceUID="*"), "PACS", 0xA900),
        (identifier("SERIES", SeriesInstanceUID=SERIES), "PACS", 0xA900),
    ],
    ids=["unknown destination", "destination away", "nothing there", "no key", "a wildcard", "no study"],
)
def test_a_move_that_cannot_be_is_answered_with_its_status(site: Site, ds: Dataset, to: str, status: int) -> None:
    assert [response.Status for response in move(site, ds, to)] == [status]
    assert site.pacs.stored == {}


def test_a_move_destination_is_answered_whatever_it_is(site: Site) -> None:
    """Padded with NUL it is what it is without; pynetdicom would abort for what is no AE title."""
    known, unknown = (
        (b"PACS\0\0", b"PACS" + 12 * b" ", b"PACS\0 "),
        (b"", b"\0\0", b"A" * 18, b"P\nCS", 5000 * b"\xff\0"),
    )
    content = wire.implicit(identifier("STUDY", StudyInstanceUID="1.2.3"))
    with wire.Wire(site.port, patience(60)) as peer:
        [context] = peer.associate([(MOVE, ImplicitVRLittleEndian)], calling=b"VIEWER")
        for number, destination in enumerate((*known, *unknown), 1):
            for is_command, part in ((True, wire.move_command(MOVE, destination, number)), (False, content)):
                for each in wire.data_pdus(context, part, is_command):
                    peer.send(each)
            kind, body = peer.receive()
            assert (kind, wire.status_of(body)) == (wire.DATA, 0x0000 if destination in known else 0xA801), destination
        peer.release()


def test_what_the_destination_does_not_take_is_named(site: Site) -> None:
    site.pacs.behaviour, site.pacs.status = Behaviour.REFUSE, 0xA700
    with associated(site, MOVE) as assoc:
        ds = identifier("SERIES", StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES)
        *_, (status, names) = assoc.send_c_move(ds, "PACS", MOVE)
    assert (status.Status, status.NumberOfFailedSuboperations) == (0xA702, 3)
    assert len(names.FailedSOPInstanceUIDList) == 3


# --- C-GET -----------------------------------------------------------------------------------------------------


@needs_dcmtk
def test_getscu_gets_report_picture_and_images(site: Site, tmp_path: Path) -> None:
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"]
    names = ["-aet", "VIEWER", "-aec", "AI_WORKER"]
    dcmtk.run("getscu", "-S", *names, "-od", tmp_path, *keys, "127.0.0.1", str(site.port))
    received_files = {ds.SOPInstanceUID: ds for ds in map(dcmread, tmp_path.iterdir())}
    assert len(received_files) == 6
    for produced in site.objects:
        assert received_files[produced.sop_instance_uid] == dcmread(site.data / produced.path)


def get(site: Site, ds: Dataset, model: str, stored: list[str], **options: Any) -> tuple[Dataset, Dataset | None]:
    """The last response to a C-GET of MR images and reports; what came is in `stored`."""

    def keep(event: evt.Event) -> int:
        stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    roles = [MRImageStorage, Comprehensive3DSRStorage]
    with associated(site, model, roles=roles, handlers=[(evt.EVT_C_STORE, keep)], **options) as assoc:
        *_, last = assoc.send_c_get(ds, model)
    return last


def test_get_by_patient_and_what_has_no_context_fails(site: Site) -> None:
    stored: list[str] = []
    ds = identifier("PATIENT", PatientID="ID-a")
    status, names = get(site, ds, PatientRootQueryRetrieveInformationModelGet, stored)
    assert (status.Status, status.NumberOfCompletedSuboperations, len(stored)) == (0xB000, 4, 4)
    assert names is not None
    assert set(names.FailedSOPInstanceUIDList) == {produced.sop_instance_uid for produced in site.objects[1:]}  # SC, KO


@pytest.mark.parametrize(
    ("series", "offered", "status"),
    [("rle", RLELossless, 0x0000), ("rle", ExplicitVRLittleEndian, 0xA702), ("a", ImplicitVRLittleEndian, 0x0000)],
)
def test_pixels_are_sent_as_they_are_stored_or_not_at_all(site: Site, series: str, offered: str, status: int) -> None:
    got: list[bytes] = []

    def keep(event: evt.Event) -> int:
        got.append(event.encoded_dataset(include_meta=False))
        return 0x0000

    model = StudyRootQueryRetrieveInformationModelGet
    source = mr_instance(1, series)
    keys = {"StudyInstanceUID": source.StudyInstanceUID, "SeriesInstanceUID": source.SeriesInstanceUID}
    ds = identifier("IMAGE", **keys, SOPInstanceUID=source.SOPInstanceUID)
    handlers = [(evt.EVT_C_STORE, keep)]
    with associated(site, model, roles=[MRImageStorage], syntax=offered, handlers=handlers) as assoc:
        *_, (last, _) = assoc.send_c_get(ds, model)
    assert last.Status == status
    if series == "rle":
        assert got == ([bytes_of(site.rle)] if status == 0x0000 else [])
    else:
        assert len(got) == 1


def test_a_file_that_is_gone_is_a_failed_sub_operation(site: Site) -> None:
    path = site.data / site.objects[0].path
    aside = path.rename(path.with_suffix(".aside"))
    try:
        ds = identifier("SERIES", StudyInstanceUID=STUDY, SeriesInstanceUID=dcmread(aside).SeriesInstanceUID)
        status, names = get(site, ds, StudyRootQueryRetrieveInformationModelGet, [])
        assert find(site, identifier("STUDY", StudyInstanceUID=STUDY, StudyTime=""))[0] == [0xFF00, 0x0000]
    finally:
        aside.rename(path)
    assert (status.Status, names.FailedSOPInstanceUIDList) == (0xA702, site.objects[0].sop_instance_uid)


def test_a_get_is_cancelled_between_two_instances(site: Site) -> None:
    model = StudyRootQueryRetrieveInformationModelGet

    def cancel(event: evt.Event) -> int:
        event.assoc.send_c_cancel(5, query_model=model)
        return 0x0000

    handlers = [(evt.EVT_C_STORE, cancel)]
    with associated(site, model, roles=[MRImageStorage], handlers=handlers) as assoc:
        ds = identifier("SERIES", StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES)
        *_, (status, _) = assoc.send_c_get(ds, model, msg_id=5)
    assert (status.Status, status.NumberOfRemainingSuboperations, status.NumberOfCompletedSuboperations) == (
        0xFE00,
        2,
        1,
    )


def test_an_association_that_ends_in_the_middle_leaves_the_place_free(site: Site) -> None:
    model = StudyRootQueryRetrieveInformationModelGet

    def cut(event: evt.Event) -> int:
        event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        return 0x0000

    for _ in range(scp.OPERATIONS_AT_ONCE + 1):
        with associated(site, model, roles=[MRImageStorage], handlers=[(evt.EVT_C_STORE, cut)]) as assoc:
            ds = identifier("SERIES", StudyInstanceUID=STUDY, SeriesInstanceUID=SERIES)
            list(assoc.send_c_get(ds, model))
    assert move(site, identifier("STUDY", StudyInstanceUID=STUDY))[-1].Status == 0x0000


# --- audit, and a PACS that asks ----------------------------------------------------------------------------------


def test_a_query_is_audited_without_the_patient(site: Site) -> None:
    find(site, identifier("STUDY", PatientName="FAMILY*", PatientID="ID-a", PatientSex="F", StudyDate="20260301"))
    [query] = [event for event in site.audited if event.id.value == "110112"]
    assert query.participants[0].user_id == "VIEWER"
    shown = query.subjects[0].query or ""
    assert "20260301" in shown
    assert "ID-a" not in shown
    assert "FAMILY" not in shown


@pytest.mark.skipif(orthanc.program() is None, reason="Orthanc is not installed")
def test_orthanc_queries_and_retrieves(site: Site, tmp_path: Path) -> None:
    with orthanc.running(tmp_path, site.port, ae_title="VIEWER") as pacs:
        assert pacs.retrieve_study(STUDY, "PACS") == 1
    assert len(site.pacs.stored) == 6


def test_a_file_that_the_disk_has_damaged_fails_its_sub_operation(site: Site) -> None:
    with Database(f"sqlite:///{site.data / 'worker.db'}").read() as session:
        rows = session.scalars(select(InstanceRow).join(SeriesRow).where(SeriesRow.patient_id == "B-1")).all()
    files = {site.data / row.path: (site.data / row.path).read_bytes() for row in rows}
    study = derive_uid("study", "b")
    try:
        for count, status in ((1, 0xB000), (len(files), 0xA702)):
            for path, content in list(files.items())[:count]:
                path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            got: list[str] = []
            keys = identifier("SERIES", StudyInstanceUID=study, SeriesInstanceUID=derive_uid("series", "b"))
            last, _ = get(site, keys, StudyRootQueryRetrieveInformationModelGet, got)
            assert (last.Status, last.NumberOfFailedSuboperations) == (status, count)
            assert len(got) == len(files) - count
    finally:
        for path, content in files.items():
            path.write_bytes(content)


def test_a_stored_header_that_is_a_bomb_hurts_no_query(site: Site) -> None:
    database = Database(f"sqlite:///{site.data / 'worker.db'}")
    keeper = InstanceKeeper(database, site.data, lambda: datetime.now(UTC), 0)
    keeper.keep(bombs.request("15 MiB of names"))
    keeper.close()
    keys = identifier("IMAGE", StudyInstanceUID="1.2.3.4.5", SeriesInstanceUID="1.2.3.4.6", SOPInstanceUID="")
    for keyword in ("PatientName", "ImageType", "Rows", "ReferringPhysicianName"):
        add_value(keys, keyword, "")
    tracemalloc.start()
    try:
        statuses, [found] = find(site, keys)
        _, highest = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        database.close()
    assert statuses == [0xFF00, 0x0000]
    assert found.SOPInstanceUID == bombs.SOP_INSTANCE
    assert highest < 3 * 16 * bombs.MIB
