"""The attributes of an entry, of its file and of the database, and what pseudonyms leave of them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.tag import Tag

from tests.testbed.instances import encoded, mr_instance
from worker.db.tables import ObjectKind
from worker.db.views.archive import Instance
from worker.web.dicomweb import attributes
from worker.web.dicomweb.attributes import AttributeReader

ROWS, NAME, BIRTH = int(Tag("Rows")), int(Tag("PatientName")), int(Tag("PatientBirthDate"))


def instance(path: str | None = "a.dcm", kind: ObjectKind | None = None) -> Instance:
    return Instance("1.2", "1.3", "1.4", "1.5", "1.6", "MR", "stored ID", "Stored^Name", "ACC", "20260301", kind, path)


def write(folder: Path, **changes: Any) -> None:
    (folder / "a.dcm").write_bytes(encoded(mr_instance(1, "a", **changes)))


def test_the_database_decides_and_the_header_completes(tmp_path: Path) -> None:
    write(tmp_path)
    ds = AttributeReader(tmp_path, pseudonymised=False).read(instance(), None, "http://x")
    assert (ds.PatientName, ds.PatientID, ds.SOPInstanceUID) == ("Stored^Name", "stored ID", "1.4")
    assert (ds.Rows, ds.PatientBirthDate, ds.AvailableTransferSyntaxUID) == (16, "19700101", "1.6")
    assert ds.RetrieveURL == "http://x/studies/1.2/series/1.3/instances/1.4"
    assert "PixelData" not in ds


def test_of_the_header_only_the_tags_that_are_asked_for_are_read(tmp_path: Path) -> None:
    write(tmp_path)
    reader = AttributeReader(tmp_path, pseudonymised=False)
    assert "PatientBirthDate" not in reader.read(instance(), {ROWS}, "")
    assert reader.read(instance(), {ROWS}, "").Rows == 16
    assert "Rows" not in reader.read(instance(), set(), "")


def test_few_headers_are_read_whole_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    reader = AttributeReader(tmp_path, pseudonymised=False)
    lock, running, most = threading.Lock(), 0, 0

    def as_json(ds: Dataset, tags: object, bulk: str | None) -> dict[str, Any]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return {}

    monkeypatch.setattr(attributes, "as_json", as_json)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _number: reader.read_json(instance(), ""), range(16)))
    assert most == 2


@pytest.mark.parametrize("path", [None, "gone.dcm", "damaged.dcm"])
def test_without_a_readable_file_the_database_tells_what_it_knows(tmp_path: Path, path: str | None) -> None:
    (tmp_path / "damaged.dcm").write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x10\x00UI\xff\xff")
    ds = AttributeReader(tmp_path, pseudonymised=False).read(instance(path), None, "")
    assert ds.PatientID == "stored ID"
    assert "Rows" not in ds
    assert ds.InstanceAvailability == ("UNAVAILABLE" if path is None else "ONLINE")


def test_with_pseudonyms_nothing_of_the_header_identifies_the_patient(tmp_path: Path) -> None:
    inner = Dataset()
    inner.PatientName, inner.ReferencedSOPInstanceUID = "CANARY^NAME", "1.2.3"
    write(
        tmp_path, PatientComments="CANARY", ProtocolName="CANARY", ReferencedImageSequence=[inner],
        StudyDescription="CANARY", InstitutionName="CANARY",
    )  # fmt: skip
    ds = AttributeReader(tmp_path, pseudonymised=True).read(instance(), None, "")
    assert "CANARY" not in str(ds)
    assert "PatientBirthDate" not in ds
    assert (ds.Rows, ds.ImageType) == (16, ["ORIGINAL", "PRIMARY", "M"])
    assert ds.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.3"


def test_with_pseudonyms_a_report_keeps_its_content(tmp_path: Path) -> None:
    write(tmp_path, SeriesDescription="AI report", ContentDate="20260301")
    reader = AttributeReader(tmp_path, pseudonymised=True)
    assert reader.read(instance(kind=ObjectKind.REPORT), None, "").SeriesDescription == "AI report"
    assert "SeriesDescription" not in reader.read(instance(), None, "")
