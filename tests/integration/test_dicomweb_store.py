"""STOW-RS over HTTP: dicomweb-client, Orthanc and hand-made requests store into the worker."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import httpx
import pytest
from dicomweb_client import DICOMwebClient
from prometheus_client.parser import text_string_to_metric_families
from pydicom import Dataset
from sqlalchemy import select

from tests.testbed import orthanc
from tests.testbed.databases import make_tables
from tests.testbed.dcmtk import free_port
from tests.testbed.filled import served
from tests.testbed.instances import encoded, later, mr_instance, write_series
from tests.testbed.orthanc import Orthanc
from tests.testbed.waiting import patience
from worker.audit.messages import AuditEvent
from worker.config.settings import Settings
from worker.db import settling, tokens
from worker.db.engine import Database
from worker.db.migrate import migrate
from worker.db.tables import AssociationEnd, AssociationRow, ConflictRow, InstanceRow, TokenRole
from worker.dicom.standard import derive_uid
from worker.storage.acceptance import StoreRequest
from worker.storage.refusals import refused_instances
from worker.web.app import create_app
from worker.web.dicomweb import stow
from worker.web.dicomweb.stow_request import CALLING, StowStorage
from worker.web.dicomweb.stow_response import StowResult

BOUNDARY = "frontier"
MULTIPART = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
STUDIES = "/dicom-web/studies"


@dataclass(frozen=True)
class Site:
    address: str
    database: Database
    data_dir: Path
    writer: httpx.Client
    client: DICOMwebClient
    read_token: str
    events: list[AuditEvent]

    def instances(self) -> set[str]:
        with self.database.read() as session:
            return set(session.scalars(select(InstanceRow.sop_instance_uid)))


def _serving(folder: Path, stow: bool) -> Iterator[Site]:
    settings = Settings.model_validate(
        {
            "worker": {"data_dir": folder},
            "database": {"url": f"sqlite:///{folder / 'worker.db'}"},
            "web": {"stow": stow, "stow_maximum_bytes": 2 << 20},
            "receive": {"maximum_dataset_bytes": 1 << 20, "minimum_free_bytes": 0},
        }
    )
    database = Database(settings.database.url)
    make_tables(database)
    events: list[AuditEvent] = []
    with database.write() as session:
        _, reading = tokens.add_token(session, "reader", TokenRole.READ, later(0), None)
        _, writing = tokens.add_token(session, "writer", TokenRole.OPERATE, later(0), None)
    app = create_app(settings, database, events.append, lambda: later(0))
    headers = {"Authorization": f"Bearer {writing}"}
    with served(app) as address, httpx.Client(base_url=address, timeout=patience(60), headers=headers) as writer:
        client = DICOMwebClient(f"{address}/dicom-web", headers=headers)
        yield Site(address, database, folder, writer, client, reading, events)
    database.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from _serving(tmp_path_factory.mktemp("stow"), stow=True)


def _message(*parts: bytes, kind: str = "application/dicom") -> bytes:
    head = f"--{BOUNDARY}\r\nContent-Type: {kind}\r\n\r\n".encode()
    return b"".join(head + part + b"\r\n" for part in parts) + f"--{BOUNDARY}--".encode()


def _post(site: Site, content: bytes, path: str = STUDIES, **headers: str) -> httpx.Response:
    return site.writer.post(path, content=content, headers={"Content-Type": MULTIPART, **headers})


def _failures(answer: httpx.Response) -> list[int]:
    response = Dataset.from_json(answer.json())
    items = [*response.get("FailedSOPSequence", []), *response.get("OtherFailuresSequence", [])]
    return [item.FailureReason for item in items]


def test_a_stored_instance_is_durable_listed_and_settles_when_the_request_has_ended(site: Site) -> None:
    site.events.clear()
    images = [mr_instance(number, "a") for number in (1, 2, 3)]
    for ds in images:
        encoded(ds)
        ds.preamble = bytes(128)  # else the client sends no DICOM file (PS3.10)
    response = site.client.store_instances(images)
    stored = [item.ReferencedSOPInstanceUID for item in response.ReferencedSOPSequence]
    assert stored == [ds.SOPInstanceUID for ds in images]
    assert "FailedSOPSequence" not in response
    back = site.client.retrieve_series(images[0].StudyInstanceUID, images[0].SeriesInstanceUID)
    assert [ds.PixelData for ds in back] == [ds.PixelData for ds in images]
    with site.database.read() as session:
        rows = session.scalars(select(AssociationRow)).all()
        assert [(row.calling_ae_title, row.closed_at) for row in rows] == [(CALLING, later(0))]
        moments = (later(11), timedelta(seconds=10), timedelta(seconds=60), settling.CountPolicy())
        assert len(settling.series_to_settle(session, *moments)) == 1
    assert [event.id.meaning for event in site.events][:1] == ["DICOM Instances Transferred"]


def test_a_series_waits_for_the_end_of_the_request(site: Site) -> None:
    storage = StowStorage(
        Settings.model_validate({"worker": {"data_dir": site.data_dir}, "receive": {"minimum_free_bytes": 0}}),
        site.database, lambda: later(100), site.events.append,
    )  # fmt: skip
    request = storage.begin("writer", "127.0.0.1")
    result = request.store(StoreRequest("", "", "", encoded(mr_instance(1, "w"))))
    assert result == StowResult(
        mr_instance().SOPClassUID,
        derive_uid("instance", "w", "1"),
        derive_uid("study", "w"),
        derive_uid("series", "w"),
        0,
    )

    def settled() -> int:
        with site.database.read() as session:
            moments = (later(115), timedelta(seconds=10), timedelta(seconds=60), settling.CountPolicy())
            return len(settling.series_to_settle(session, *moments))

    before = settled()
    request.end(AssociationEnd.RELEASED)
    assert settled() == before + 1
    storage.close()


def test_the_same_again_and_a_correction_are_success_and_other_pixels_a_warning(site: Site) -> None:
    content = encoded(mr_instance(1, "c"))
    assert _post(site, _message(content)).status_code == 200
    assert _post(site, _message(content)).status_code == 200
    assert _post(site, _message(encoded(mr_instance(1, "c", SeriesDescription="corrected")))).status_code == 200
    with site.database.read() as session:
        assert session.scalar(select(ConflictRow.id)) is None
    other = _post(site, _message(encoded(mr_instance(1, "c", PixelData=bytes(512)))))
    assert other.status_code == 202
    assert Dataset.from_json(other.json()).ReferencedSOPSequence[0].WarningReason == 0xB000
    with site.database.read() as session:
        assert session.scalar(select(ConflictRow.id)) is not None


def _without(keyword: str) -> bytes:
    ds = mr_instance(1, "d")
    delattr(ds, keyword)
    return encoded(ds)


BAD: dict[str, tuple[Callable[[], bytes], int]] = {
    "a PNG": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(500), 0xC000),
    "nothing": (lambda: b"", 0xC000),
    "cut short": (lambda: encoded(mr_instance(1, "d"))[:300], 0xA900),
    "cut in its meta information": (lambda: encoded(mr_instance(1, "d"))[:200], 0xC000),
    "no series": (lambda: _without("SeriesInstanceUID"), 0xA900),
    "a CT": (lambda: encoded(mr_instance(1, "d", SOPClassUID="1.2.840.10008.5.1.4.1.1.2")), 0x0122),
    "unknown syntax": (
        lambda: encoded(mr_instance(1, "d")).replace(b"1.2.840.10008.1.2.1\x00", b"1.2.840.10008.9.9.9\x00", 1),
        0xC122,
    ),
    "too large": (lambda: encoded(mr_instance(1, "d", PixelData=bytes(1_100_000))), 0xA700),
}


@pytest.mark.parametrize("name", list(BAD))
def test_an_instance_that_cannot_be_stored_fails_with_its_reason_and_the_rest_is_stored(site: Site, name: str) -> None:
    (make, reason), series = BAD[name], f"good{list(BAD).index(name)}"
    before = site.instances()
    alone = _post(site, _message(make()))
    assert (alone.status_code, _failures(alone)) == (409, [reason])
    assert site.instances() == before
    good = encoded(mr_instance(1, series))
    both = _post(site, _message(make(), good))
    assert (both.status_code, _failures(both)) == (202, [reason])
    assert site.instances() - before == {derive_uid("instance", series, "1")}


def _refused(site: Site) -> dict[str, float]:
    """By status and reason, of GET /metrics."""
    text = site.writer.get("/metrics").text
    return {
        f"{sample.labels['status']} {sample.labels['reason']}": sample.value
        for family in text_string_to_metric_families(text)
        if family.name == "mri_worker_instances_refused"
        for sample in family.samples
    }


def test_what_is_refused_is_counted_as_what_c_store_refuses(site: Site) -> None:
    before = _refused(site)
    makes = [make for make, _ in BAD.values()]
    assert _post(site, _message(*(make() for make in makes))).status_code == 409
    assert _post(site, _message(b"\x89PNG", kind="image/png")).status_code == 409
    _post(site, _message(encoded(mr_instance(1, "e"))), f"{STUDIES}/1.2.3")
    _post(site, _message(b"no file")[:-5])  # the request ends in the middle
    after = _refused(site)
    assert {key: after[key] - before[key] for key in after if after[key] > before[key]} == {
        "0xC000 not-dicom": 3,  # a PNG, nothing, a part of another type
        "0x0122 sop-class": 1,
        "0xC000 unreadable-dataset": 1,
        "0xA900 invalid-uid": 2,
        "0xC122 transfer-syntax": 1,
        "0xA700 dataset-too-large": 1,
        "0xA900 other-study": 1,
    }


def test_a_count_that_cannot_be_written_now_is_written_later(site: Site, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")  # which has no tables yet
    settings = Settings.model_validate({"worker": {"data_dir": tmp_path}})
    storage = StowStorage(settings, database, lambda: later(0), site.events.append)
    request = storage.begin("writer", "127.0.0.1")
    assert request.store(StoreRequest("", "", "", b"no file")).status == 0xC000
    request.end(AssociationEnd.RELEASED)
    migrate(database)
    storage.close()
    with database.read() as session:
        assert refused_instances(session)["0xC000", "not-dicom"] == 1
    database.close()


def test_an_address_with_a_study_accepts_no_other(site: Site) -> None:
    content = _message(encoded(mr_instance(1, "e")))
    assert _failures(_post(site, content, f"{STUDIES}/1.2.3")) == [0xA900]
    assert _post(site, content, f"{STUDIES}/{derive_uid('study', 'e')}").status_code == 200


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"x", {"Content-Type": "image/png"}, 415),
        (b"x", {"Content-Type": 'multipart/related; type="image/png"; boundary=b'}, 415),
        (b"x", {"Content-Type": "application/dicom"}, 415),
        (b"x", {"Content-Type": 'multipart/related; type="application/dicom"'}, 400),
        (b"", {}, 400),
        (b"no delimiter at all", {}, 400),
        (f"--{BOUNDARY}--".encode(), {}, 400),
        (f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\nhalf".encode(), {}, 400),
        (f"--{BOUNDARY}x\r\n\r\n--{BOUNDARY}--".encode(), {}, 400),
        (f"--{BOUNDARY}\r\n{'x' * 20_000}\r\n\r\n--{BOUNDARY}--".encode(), {}, 400),
        (_message(b"\x89PNG", kind="image/png"), {}, 409),
        (b"x", {"Accept": "text/html"}, 406),
    ],
)
def test_a_malformed_request_is_answered_with_its_fault(
    site: Site, content: bytes, headers: dict[str, str], status: int
) -> None:
    before = site.instances()
    assert _post(site, content, **headers).status_code == status
    assert site.instances() == before


def test_the_response_is_xml_where_the_client_accepts_xml(site: Site) -> None:
    ds = mr_instance(1, "in xml")
    answer = _post(site, _message(encoded(ds)), Accept="application/dicom+xml")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom+xml")
    path = (
        "{*}DicomAttribute[@keyword='ReferencedSOPSequence']/{*}Item//*[@keyword='ReferencedSOPInstanceUID']/{*}Value"
    )
    uids = [value.text for value in ElementTree.fromstring(answer.content).findall(path)]
    assert uids == [ds.SOPInstanceUID]


def _raw(site: Site, head: str, body: bytes) -> bytes:
    """The status line, of a request that claims more than it sends."""
    address = urlsplit(site.address)
    with socket.create_connection((address.hostname, address.port), timeout=patience(60)) as connection:
        token = site.writer.headers["authorization"]
        lines = (
            f"POST {STUDIES} HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: {token}\r\nContent-Type: {MULTIPART}"
        )
        connection.sendall(f"{lines}\r\n{head}\r\n\r\n".encode() + body)
        return connection.recv(1 << 16).split(b"\r\n")[0]


def test_a_huge_request_is_refused_by_its_claimed_and_by_its_sent_length(site: Site) -> None:
    before = site.instances()
    assert b" 413 " in _raw(site, "Content-Length: 99999999999", b"")
    start = f"--{BOUNDARY}\r\n\r\n".encode()
    rest = bytes((2 << 20) - len(start))
    # Up to the limit, and with the last ten bytes beyond it: nothing is left unread.
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (start, rest)) + b"a\r\n" + bytes(10)
    assert b" 413 " in _raw(site, "Transfer-Encoding: chunked", chunks)
    assert site.instances() == before


def test_too_many_parts_are_413_and_take_bounded_memory(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stow, "MAXIMUM_PARTS", 50)
    assert _post(site, _message(*[b""] * 50)).status_code == 409
    answer = _post(site, _message(*[b""] * 10_000))
    assert (answer.status_code, "50 parts" in answer.json()["detail"]) == (413, True)


def test_a_token_that_stores_slowly_leaves_places_to_others(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stow, "_REQUESTS_OF_A_CALLER", 2)
    message = _message(b"")
    head = (
        f"POST {STUDIES} HTTP/1.1\r\nHost: x\r\nContent-Type: {MULTIPART}\r\nContent-Length: {len(message)}\r\n"
        f"Authorization: {site.writer.headers['authorization']}\r\n\r\n"
    )
    place = urlsplit(site.address)
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((place.hostname, place.port), 30)) for _ in range(3)]
        for connection in slow[:2]:
            connection.sendall(head.encode() + message[:40])
        time.sleep(0.5)
        slow[2].sendall(head.encode() + message[:40])
        assert slow[2].recv(100).startswith(b"HTTP/1.1 503")
        with site.database.write() as session:
            _, other = tokens.add_token(session, None, TokenRole.OPERATE, later(0), None)
        assert _post(site, message, Authorization=f"Bearer {other}").status_code == 409
        for connection in slow[:2]:
            connection.sendall(message[40:])
            assert connection.recv(100).startswith(b"HTTP/1.1 409")


def test_uploads_that_drip_keep_nobody_out(site: Site) -> None:
    message = _message(encoded(mr_instance(1, "drip")))
    head = (
        f"POST {STUDIES} HTTP/1.1\r\nHost: x\r\nContent-Type: {MULTIPART}\r\nContent-Length: {len(message)}\r\n"
        f"Authorization: {site.writer.headers['authorization']}\r\n\r\n"
    )
    place = urlsplit(site.address)
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection((place.hostname, place.port), 30)) for _ in range(12)]
        for connection in slow:
            connection.sendall(head.encode() + message[:200])
        time.sleep(0.5)
        assert _post(site, _message(encoded(mr_instance(2, "drip")))).status_code == 200
    assert mr_instance(1, "drip").SOPInstanceUID not in site.instances()


def test_parts_may_arrive_in_pieces_of_any_size(site: Site) -> None:
    content = _message(encoded(mr_instance(1, "p")), encoded(mr_instance(2, "p")))

    def pieces(size: int) -> Iterator[bytes]:
        for start in range(0, len(content), size):
            yield content[start : start + size]

    for size in (7, 64, 1000):
        answer: Any = _post(site, pieces(size))  # type: ignore[arg-type]
        assert answer.status_code == 200
        assert len(Dataset.from_json(answer.json()).ReferencedSOPSequence) == 2


def test_only_who_operates_may_store_and_only_where_it_is_allowed(site: Site, tmp_path: Path) -> None:
    content = _message(encoded(mr_instance(1, "f")))
    assert _post(site, content, Authorization=f"Bearer {site.read_token}").status_code == 403
    assert _post(site, content, Authorization="").status_code == 401
    for closed in _serving(tmp_path, stow=False):
        refused = _post(closed, content)
        assert (refused.status_code, closed.instances()) == (403, set())
        assert "[web] stow" in refused.json()["detail"]


def test_the_store_is_closed_with_the_application(tmp_path: Path) -> None:
    def syncing() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "folders"}

    others = syncing()
    for opened in _serving(tmp_path, stow=True):
        assert _post(opened, _message(encoded(mr_instance(1, "g")))).status_code == 200
        assert syncing() - others
    assert syncing() - others == set()


@pytest.mark.skipif(
    orthanc.program() is None or orthanc.dicomweb_plugin() is None, reason="Orthanc or its DICOMweb plugin is missing"
)
def test_orthanc_stores_queries_and_retrieves(site: Site, tmp_path: Path) -> None:
    """As a client of the worker, in the order in which an archive works."""
    archive = Orthanc(tmp_path / "orthanc", free_port(), "AI_WORKER", "ORTHANC", dicomweb=True)
    archive.start()
    try:
        with httpx.Client(base_url=archive.dicomweb_url, timeout=patience(60)) as client:
            headers = {"Authorization": site.writer.headers["authorization"]}
            ours = {"Url": f"{site.address}/dicom-web", "HttpHeaders": headers}
            client.put("servers/worker", json=ours).raise_for_status()
            archive.upload(write_series(tmp_path / "sent", 3, "o"))
            study = {"StudyInstanceUID": derive_uid("study", "o")}
            resources = [instance["ID"] for instance in archive.instances(**study)]
            client.post("servers/worker/stow", json={"Resources": resources, "Synchronous": True}).raise_for_status()
            assert {derive_uid("instance", "o", str(number)) for number in (1, 2, 3)} <= site.instances()
            query = {"Uri": "/studies", "Arguments": {"PatientName": "Family^o"}}
            (result,) = client.post("servers/worker/qido", json=query).raise_for_status().json()
            assert study["StudyInstanceUID"] in [member.get("Value") for member in result.values()]
            assert _post(site, _message(encoded(mr_instance(4, "o")))).status_code == 200
            retrieval = {"Resources": [{"Study": study["StudyInstanceUID"]}], "Synchronous": True}
            client.post("servers/worker/retrieve", json=retrieval).raise_for_status()
            assert len(archive.instances(**study)) == 4
    finally:
        archive.stop()
