"""The DICOMweb service with dicomweb-client and httpx as clients: a data folder with real reports and pictures."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from email.parser import BytesParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import numpy as np
import pytest
from dicomweb_client import DICOMwebClient
from PIL import Image
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.datadict import tag_for_keyword
from pydicom.uid import JPEG2000Lossless
from sqlalchemy import select, update

from tests.testbed import bombs
from tests.testbed.answered import answer
from tests.testbed.databases import make_tables
from tests.testbed.filled import served
from tests.testbed.instances import later, mr_instance, received
from tests.testbed.waiting import patience
from worker.audit.messages import AuditEvent
from worker.config.pseudonyms import pseudonym_of
from worker.config.settings import Settings
from worker.db import tokens
from worker.db.engine import Database
from worker.db.tables import InstanceRow, TokenRole
from worker.dicom.standard import derive_uid
from worker.storage.acceptance import StoreRequest
from worker.storage.keeper import InstanceKeeper
from worker.web.app import create_app

STUDY, SERIES, FIRST = derive_uid("study", "a"), derive_uid("series", "a"), derive_uid("instance", "a", "1")
BASE = f"/dicom-web/studies/{STUDY}"
XML = 'multipart/related; type="application/dicom+xml"'
COMPREHENSIVE_3D = "1.2.840.10008.5.1.4.1.1.88.34"


@dataclass(frozen=True)
class Site:
    """`client` reads, with a token; `reader` is the same for plain requests."""

    database: Database
    data_dir: Path
    client: DICOMwebClient
    reader: httpx.Client
    events: list[AuditEvent]


@contextmanager
def serving(folder: Path, **sections: Any) -> Iterator[Site]:
    """Study a with a report, a picture and key objects, study b without, and a compressed image in c."""
    settings = Settings.model_validate(
        {"worker": {"data_dir": folder}, "database": {"url": f"sqlite:///{folder / 'worker.db'}"}, **sections}
    )
    database = Database(settings.database.url, pseudonym_of(settings.privacy))
    make_tables(database)
    answer(
        database, folder, "a", 3, key_objects_to=("pacs",), PatientName="Müller^Ada", SpecificCharacterSet="ISO_IR 100"
    )
    keeper = InstanceKeeper(database, folder, lambda: later(0), 0)
    frames = np.arange(3 * 16 * 16, dtype=np.uint16).tobytes()
    requests = [_request("A", "1"), _request("B", "2")]
    for ds in (
        mr_instance(
            1,
            "b",
            StudyDate="20250101",
            PatientName="Bo^B",
            NumberOfFrames=3,
            PixelData=frames,
            RequestAttributesSequence=requests,
        ),
        _large(),
    ):
        keeper.keep(_compressed(ds) if ds.Rows == 64 else received(ds))
    keeper.close()
    events: list[AuditEvent] = []
    with database.write() as session:
        _, token = tokens.add_token(session, "reader", TokenRole.READ, later(0), None)
    app = create_app(settings, database, events.append)
    with served(app) as address, httpx.Client(base_url=address, timeout=patience(60)) as reader:
        reader.headers["Authorization"] = f"Bearer {token}"
        client = DICOMwebClient(f"{address}/dicom-web", headers={"Authorization": f"Bearer {token}"})
        yield Site(database, folder, client, reader, events)
    database.close()


def _request(procedure: str, step: str) -> Dataset:
    item = Dataset()
    item.RequestedProcedureID, item.ScheduledProcedureStepID = procedure, step
    return item


def _large() -> Dataset:
    """Of a size that JPEG 2000 takes."""
    pixels = np.random.default_rng(7).integers(0, 4000, (64, 64), np.uint16)
    return mr_instance(1, "c", Rows=64, Columns=64, PixelData=pixels.tobytes())


def _compressed(ds: Dataset) -> StoreRequest:
    original = received(ds)
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return replace(original, transfer_syntax_uid=JPEG2000Lossless, encoded=buffer.getvalue())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(tmp_path_factory.mktemp("dicomweb")) as running:
        yield running


def _values(results: list[dict[str, Any]], keyword: str) -> list[Any]:
    tag = f"{tag_for_keyword(keyword):08X}"
    return [result.get(tag, {}).get("Value", [None])[0] for result in results]


# --- QIDO-RS ---------------------------------------------------------------------------------------------------


def test_studies_are_listed_with_their_contents(site: Site) -> None:
    c, b, a = site.client.search_for_studies()
    assert _values([c, b, a], "StudyInstanceUID") == [derive_uid("study", name) for name in "cba"]
    study = Dataset.from_json(a)
    assert str(study.PatientName) == "Müller^Ada"
    assert (study.PatientID, study.StudyID, study.PatientSex, study.StudyTime) == ("ID-a", "1", "F", "120000")
    assert list(study.ModalitiesInStudy) == ["KO", "MR", "OT", "SR"]
    assert (study.NumberOfStudyRelatedSeries, study.NumberOfStudyRelatedInstances) == (4, 6)
    assert study.InstanceAvailability == "ONLINE"
    assert study.RetrieveURL.endswith(BASE)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"PatientName": "müller*"}, "a"),
        ({"PatientName": "M*", "StudyDate": "20260101-"}, "a"),
        ({"00100010": "bo^b"}, "b"),
        ({"StudyDate": "20241231-20250102"}, "b"),
        ({"ModalitiesInStudy": "SR"}, "a"),
        ({"AccessionNumber": "ACC-?"}, "cba"),
        ({"StudyTime": "1159-1201"}, "cba"),
        ({"StudyTime": "1201-"}, ""),
        ({"PatientSex": "M"}, ""),
        ({"StudyInstanceUID": f"1.2.3,{STUDY}"}, "a"),
        ({"PatientID": "*"}, "cba"),
        ({"PatientID": "ID-x"}, ""),
        ({"PatientName": "MÜLLER^ADA"}, "a"),
        ({"StudyDate": "20250101-20260301", "StudyTime": "1300-1100"}, ""),
        ({"StudyDate": "20250101-20260301", "StudyTime": "1300-1200"}, "ca"),
        ({"StudyDate": "20250101-20260302", "StudyTime": "1100-1100"}, "cba"),
        ({"StudyDate": "20250101-", "StudyTime": "1100-1300"}, "cba"),
    ],
)
def test_studies_are_matched(site: Site, filters: dict[str, str], expected: str) -> None:
    results = site.client.search_for_studies(search_filters=filters)
    assert _values(results, "StudyInstanceUID") == [derive_uid("study", name) for name in expected]


@pytest.mark.parametrize(
    ("procedure", "step", "count"), [("A", "1", 1), ("B", "2", 1), ("A", "2", 0), ("", "2", 1), ("A*", "*", 1)]
)
def test_a_single_item_of_a_sequence_matches_every_key(site: Site, procedure: str, step: str, count: int) -> None:
    """PS3.4 C.2.2.2.6."""
    sequence = "RequestAttributesSequence"
    filters = {f"{sequence}.RequestedProcedureID": procedure, f"{sequence}.ScheduledProcedureStepID": step}
    answer = site.reader.get(f"/dicom-web/studies/{derive_uid('study', 'b')}/series", params=filters)
    assert len(answer.json() if answer.status_code == 200 else []) == count


def test_pages_and_fields_are_those_requested(site: Site) -> None:
    assert _values(site.client.search_for_studies(limit=1, offset=1), "PatientID") == ["ID-b"]
    more = site.reader.get("/dicom-web/studies", params={"limit": 1, "fuzzymatching": "true", "PatientName": "m*"})
    assert "fuzzymatching" in more.headers["warning"]
    assert "additional results" in site.reader.get("/dicom-web/studies", params={"limit": 2}).headers["warning"]
    assert "warning" not in site.reader.get("/dicom-web/studies", params={"limit": 3}).headers
    (series,) = site.client.search_for_series(STUDY, search_filters={"Modality": "MR"}, fields=["BodyPartExamined"])
    ds = Dataset.from_json(series)
    assert (ds.BodyPartExamined, ds.SeriesNumber, ds.NumberOfSeriesRelatedInstances) == ("BRAIN", 1, 3)
    assert ds.SeriesDescription == "t1"


def test_a_report_is_found_by_its_class_and_its_title(site: Site) -> None:
    """IHE RAD AIR, RAD-137."""
    by_class = {"SOPClassUID": COMPREHENSIVE_3D}
    by_title = {"ConceptNameCodeSequence.CodeValue": "126000", "ConceptNameCodeSequence.CodingSchemeDesignator": "DCM"}
    by_template = {"0040A504.0040DB00": "1500"}
    for filters in (by_class, by_title, by_template):
        (report,) = site.client.search_for_instances(STUDY, search_filters=filters)
        ds = Dataset.from_json(report)
        assert ds.SOPClassUID == COMPREHENSIVE_3D
        assert ds.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurement Report"
        assert ds.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    everywhere = site.client.search_for_instances(search_filters=by_class)
    assert _values(everywhere, "StudyInstanceUID") == [STUDY]


def test_produced_series_have_the_attributes_of_their_files(site: Site) -> None:
    for modality in ("SR", "OT", "KO"):
        (series,) = site.client.search_for_series(STUDY, search_filters={"Modality": modality})
        ds = Dataset.from_json(series)
        (instance,) = site.client.retrieve_series(STUDY, ds.SeriesInstanceUID)
        same = ("Modality", "SeriesInstanceUID", "SeriesDescription", "SeriesNumber")
        assert [ds[name].value for name in same] == [instance[name].value for name in same]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/studies?PatientNom=x", 200),
        ("/studies?accept=application/dicom+json&charset=utf-8&orderby=StudyDate&_=1", 200),
        ("/studies?accept=text/html", 406),
        ("/studies?limit=1&limit=2", 400),
        ("/studies?limit=-1", 400),
        ("/studies?limit=1e9", 400),
        ("/studies?offset=x", 400),
        ("/studies?fuzzymatching=maybe", 400),
        ("/studies?StudyInstanceUID=1.2.*", 400),
        ("/studies?Rows=16", 200),
        ("/studies?includefield=Rows,00080060", 200),
        ("/studies?00091001=x", 200),
        ("/studies/x/series", 400),
        ("/studies?PatientID=nobody", 204),
        ("/studies/1.2.3/series", 204),
        ("/studies?offset=1000", 204),
        ("/instances?InstanceNumber=2", 200),
        ("/studies?includefield=all", 200),
        ("/studies?PatientID=%5B%25_%5C", 204),
        ("/studies?PatientName=%00", 400),
        ("/studies?PatientID=ID-a&PatientID=ID-b", 400),
        (f"/instances?{'.'.join(['00400275'] * 1500)}.00200010=1", 200),
        ("/instances?ConceptNameCodeSequence=126000", 204),
    ],
)
def test_a_search_is_answered_with_the_status_of_the_standard(site: Site, path: str, status: int) -> None:
    answer = site.reader.get(f"/dicom-web{path}")
    assert answer.status_code == status
    if status == 400:
        assert answer.headers["content-type"] == "application/problem+json"


def test_what_is_not_supported_is_ignored_with_a_warning(site: Site) -> None:
    plain = site.reader.get("/dicom-web/studies")
    answer = site.reader.get("/dicom-web/studies?_=17&PatientNom=x&accept=application/json")
    assert answer.json() == plain.json()
    assert answer.headers["warning"].startswith("299 ")
    assert "ignored" in answer.headers["warning"]
    assert "warning" not in plain.headers


def test_xml_has_the_content_of_json_in_a_part_for_each_dataset(site: Site) -> None:
    for path in ("/studies", f"/studies/{STUDY}/metadata"):
        answer = site.reader.get(f"/dicom-web{path}", headers={"Accept": XML})
        datasets = site.reader.get(f"/dicom-web{path}").json()
        kind = BytesParser().parsebytes(b"Content-Type: " + answer.headers["content-type"].encode() + b"\n\n")
        assert (kind.get_content_type(), kind.get_param("type")) == ("multipart/related", "application/dicom+xml")
        message = BytesParser().parsebytes(str(kind).encode() + answer.content)
        parts = [ElementTree.fromstring(part.get_payload(decode=True)) for part in message.get_payload()]
        assert len(parts) == len(datasets) > 1
        for part, dataset in zip(parts, datasets, strict=True):
            assert [attribute.get("tag") for attribute in part] == sorted(dataset)
            [uid] = part.findall("{*}DicomAttribute[@keyword='StudyInstanceUID']/{*}Value")
            assert uid.text == dataset["0020000D"]["Value"][0]


def test_media_types_are_those_of_the_standard_and_a_token_is_required(site: Site) -> None:
    for accept in ("application/dicom+xml", "text/html", 'multipart/related; type="application/dicom"'):
        assert site.reader.get("/dicom-web/studies", headers={"Accept": accept}).status_code == 406
    preferred = f"{XML}; q=0.1, application/dicom+json"
    answer = site.reader.get("/dicom-web/studies", headers={"Accept": preferred})
    assert answer.headers["content-type"] == "application/dicom+json"
    assert site.reader.get("/dicom-web/studies", headers={"Authorization": ""}).status_code == 401


# --- WADO-RS ---------------------------------------------------------------------------------------------------


def test_instances_come_back_byte_for_byte(site: Site) -> None:
    kept = sorted(
        path.read_bytes() for path in site.data_dir.glob("*/*/**/*.dcm") if STUDY.encode() in path.read_bytes()
    )
    answer = site.reader.get(BASE, headers={"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'})
    assert answer.status_code == 200
    boundary = answer.headers["content-type"].partition("boundary=")[2].encode()
    parts = [part.partition(b"\r\n\r\n")[2][:-2] for part in answer.content.split(b"--" + boundary)[1:-1]]
    assert sorted(parts) == kept
    assert len(parts) == 6


def test_every_level_is_retrieved(site: Site) -> None:
    assert len(site.client.retrieve_study(STUDY)) == 6
    assert [ds.InstanceNumber for ds in site.client.retrieve_series(STUDY, SERIES)] == [1, 2, 3]
    instance = site.client.retrieve_instance(STUDY, SERIES, FIRST)
    original = mr_instance(1, "a", PatientName="Müller^Ada", SpecificCharacterSet="ISO_IR 100")
    assert {element.tag: element.value for element in instance} == {element.tag: element.value for element in original}
    alone = site.reader.get(f"{BASE}/series/{SERIES}/instances/{FIRST}", headers={"Accept": "application/dicom"})
    assert dcmread(io.BytesIO(alone.content)) == instance


def test_a_compressed_instance_is_decompressed_unless_its_own_syntax_is_accepted(site: Site) -> None:
    uids = [derive_uid(kind, "c") for kind in ("study", "series")] + [derive_uid("instance", "c", "1")]
    url = f"/dicom-web/studies/{uids[0]}/series/{uids[1]}/instances/{uids[2]}"
    default = dcmread(io.BytesIO(site.reader.get(url, headers={"Accept": "application/dicom"}).content))
    assert default.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert default.PixelData == _large().PixelData
    as_stored = site.client.retrieve_instance(*uids, media_types=(("application/dicom", JPEG2000Lossless),))
    assert as_stored.file_meta.TransferSyntaxUID == JPEG2000Lossless
    (frame,) = site.client.retrieve_instance_frames(*uids, [1], media_types=(("image/jp2", JPEG2000Lossless),))
    assert frame.startswith(b"\xff\x4f\xff\x51")
    (native,) = site.client.retrieve_instance_frames(*uids, [1], media_types=("application/octet-stream",))
    assert native == _large().PixelData
    for accept in ("application/dicom; transfer-syntax=1.2.840.10008.1.2.4.80", "image/png", "application/dicom; q=0"):
        assert site.reader.get(url, headers={"Accept": accept}).status_code == 406
    ohif = "multipart/related; type=application/octet-stream; transfer-syntax=*"
    given = site.reader.get(f"{url}/frames/1", headers={"Accept": ohif})
    assert f"application/octet-stream; transfer-syntax={JPEG2000Lossless}".encode() in given.content


def test_metadata_have_everything_but_the_pixels(site: Site) -> None:
    first, *_ = site.client.retrieve_series_metadata(STUDY, SERIES)
    ds = Dataset.from_json({tag: member for tag, member in first.items() if tag != "7FE00010"})
    original = mr_instance(1, "a", PatientName="Müller^Ada")
    del original.PixelData
    assert {element.keyword for element in original} <= {element.keyword for element in ds}
    assert (ds.PatientName, ds.PixelSpacing) == (original.PatientName, original.PixelSpacing)
    pixels = site.client.retrieve_bulkdata(first["7FE00010"]["BulkDataURI"])
    assert pixels == [mr_instance(1, "a").PixelData]
    assert len(site.client.retrieve_study_metadata(STUDY)) == 6
    (report,) = site.client.search_for_instances(STUDY, search_filters={"Modality": "SR"})
    uids = _values([report], "SeriesInstanceUID") + _values([report], "SOPInstanceUID")
    content = Dataset.from_json(site.client.retrieve_instance_metadata(STUDY, *uids))
    assert content.ContentSequence[-1].ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurements"


def test_frames_are_numbered_from_one_and_sent_in_the_requested_order(site: Site) -> None:
    uids = [derive_uid(kind, "b") for kind in ("study", "series")] + [derive_uid("instance", "b", "1")]
    third, first = site.client.retrieve_instance_frames(*uids, [3, 1])
    pixels = np.arange(3 * 16 * 16, dtype=np.uint16).reshape(3, 256)
    assert (third, first) == (pixels[2].tobytes(), pixels[0].tobytes())
    url = f"/dicom-web/studies/{uids[0]}/series/{uids[1]}/instances/{uids[2]}/frames"
    statuses = {"4": 404, "1,4": 404, "0": 400, "x": 400, "1,,2": 400, "9999999999": 400, "2": 200}
    assert {numbers: site.reader.get(f"{url}/{numbers}").status_code for numbers in statuses} == statuses
    assert site.reader.get(f"{url}/1", headers={"Accept": "video/mp4"}).status_code == 406


def test_a_frame_comes_by_itself_where_the_client_asks_for_it(site: Site) -> None:
    url = f"{BASE}/series/{SERIES}/instances/{FIRST}/frames"
    octets = {"Accept": "application/octet-stream"}
    answer = site.reader.get(f"{url}/1", headers=octets)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.content == mr_instance(1, "a").PixelData
    assert site.reader.get(f"{url}/1?accept=application/octet-stream").content == answer.content
    assert site.reader.get(f"{url}/1").headers["content-type"].startswith("multipart/related")
    assert site.reader.get(f"{url}/1,1", headers=octets).status_code == 406


def test_a_thumbnail_shows_the_middle_frame(site: Site) -> None:
    url = f"/dicom-web/studies/{derive_uid('study', 'b')}/series/{derive_uid('series', 'b')}"
    url += f"/instances/{derive_uid('instance', 'b', '1')}"
    window = {"window": "400,800"}  # in which the frames differ
    first, middle = (site.reader.get(f"{url}/frames/{number}/thumbnail", params=window).content for number in (1, 2))
    assert site.reader.get(f"{url}/thumbnail", params=window).content == middle != first
    assert site.reader.get(f"{url}/rendered", params=window).content == first  # no larger than a thumbnail


def test_a_link_names_the_form_in_its_address(site: Site) -> None:
    url = f"{BASE}/series/{SERIES}/instances/{FIRST}"
    for path in (f"{url}/rendered", f"{url}/thumbnail"):
        assert site.reader.get(f"{path}?accept=image/png").headers["content-type"] == "image/png"
        both = site.reader.get(f"{path}?accept=image/png", headers={"Accept": "image/jpeg, */*;q=0.1"})
        assert both.headers["content-type"] == "image/png"
        assert site.reader.get(f"{path}?accept=image/gif").status_code == 406
    xml = site.reader.get(f"{BASE}/metadata", params={"accept": XML})
    assert "application/dicom+xml" in xml.headers["content-type"]
    for query in ("accept=application/dicom+json", "accept=application/dicom%2Bjson"):
        assert site.reader.get(f"{BASE}/metadata?{query}").headers["content-type"] == "application/dicom+json"
    assert site.reader.get(f"{url}/rendered?window=1,2&window=3,4").status_code == 400


def test_frames_are_rendered_through_a_window(site: Site) -> None:
    url = f"{BASE}/series/{SERIES}/instances/{FIRST}"
    png = {"Accept": "image/png"}
    shown = site.reader.get(f"{url}/rendered", params={"window": "2000,2000,linear"}, headers=png)
    values = np.frombuffer(mr_instance(1, "a").PixelData, np.uint16).reshape(16, 16).astype(float)
    expected = np.rint(np.clip((values - 1000) / 2000, 0, 1) * 255)
    assert np.abs(np.asarray(Image.open(io.BytesIO(shown.content)), float) - expected).max() <= 1
    for function, grey in {
        "linear-exact": np.clip((values - 1000) / 2000, 0, 1) * 255,
        "sigmoid": 255 / (1 + np.exp(-4 * (values - 2000) / 2000)),
    }.items():
        shown = site.reader.get(f"{url}/rendered", params={"window": f"2000,2000,{function}"}, headers=png)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown.content))), np.rint(grey).astype(np.uint8))
    assert site.reader.get(f"{url}/rendered", params={"window": "2000,2000,cubic"}).status_code == 400
    assert site.reader.get(f"{url}/frames/1/rendered").headers["content-type"] == "image/jpeg"
    small = site.reader.get(f"{BASE}/thumbnail", headers=png)
    assert max(Image.open(io.BytesIO(small.content)).size) <= 200
    wrong = {"window": "a,b", "quality": "0", "viewport": "0,0"}
    assert {site.reader.get(f"{url}/rendered", params={key: value}).status_code for key, value in wrong.items()} == {
        400
    }
    assert site.reader.get(f"{url}/frames/2/rendered").status_code == 404
    assert site.reader.get(f"{url}/rendered", headers={"Accept": "video/mp4"}).status_code == 406


def test_the_picture_is_shown_in_its_colours_and_the_report_has_none(site: Site) -> None:
    def url(modality: str) -> str:
        results = site.client.search_for_instances(STUDY, search_filters={"Modality": modality})
        [series], [instance] = _values(results, "SeriesInstanceUID"), _values(results, "SOPInstanceUID")
        return f"{BASE}/series/{series}/instances/{instance}"

    picture = site.reader.get(f"{url('OT')}/rendered", headers={"Accept": "image/png"})
    assert Image.open(io.BytesIO(picture.content)).mode == "RGB"
    assert site.reader.get(f"{url('SR')}/rendered").status_code == 404
    assert site.reader.get(f"{url('SR')}/frames/1").status_code == 404
    assert site.reader.get(f"{url('SR')}/bulkdata/00081115").status_code == 404


def test_what_was_never_received_is_404(site: Site) -> None:
    for path in (
        "1.2.3",
        "1.2.3/metadata",
        f"{STUDY}/series/1.2.3",
        f"{STUDY}/series/{SERIES}/instances/1.2.3/frames/1",
    ):
        assert site.reader.get(f"/dicom-web/studies/{path}").status_code == 404


def test_what_retention_deleted_is_gone_with_the_reason(tmp_path: Path) -> None:
    with serving(tmp_path) as site:
        with site.database.write() as session:
            session.execute(
                update(InstanceRow).where(InstanceRow.sop_instance_uid == FIRST).values(removed_at=later(0))
            )
        url = f"{BASE}/series/{SERIES}"
        gone = site.reader.get(f"{url}/instances/{FIRST}")
        assert gone.status_code == 410
        assert "pixel_days" in gone.json()["detail"]
        assert site.reader.get(f"{url}/instances/{FIRST}/frames/1").status_code == 410
        assert len(site.client.retrieve_series(STUDY, SERIES)) == 2
        assert site.reader.get(url).status_code == 206
        assert site.reader.get(f"{url}/metadata").status_code == 206
        results = site.client.search_for_instances(STUDY, SERIES)
        assert _values(results, "InstanceAvailability") == ["UNAVAILABLE", "ONLINE", "ONLINE"]


def test_queries_and_retrievals_are_audited_without_identifiers(site: Site) -> None:
    site.events.clear()
    site.client.search_for_studies(search_filters={"PatientName": "CANARY^NAME", "StudyDate": "20260301"})
    site.client.retrieve_series_metadata(STUDY, SERIES)
    site.client.retrieve_instance(STUDY, SERIES, FIRST)
    for _ in range(3):
        site.client.retrieve_instance_frames(STUDY, SERIES, FIRST, [1])
    codes = [event.id.meaning for event in site.events]
    assert codes[0] == "Query"
    assert codes.count("DICOM Instances Transferred") == 1
    assert codes.count("DICOM Instances Accessed") <= 1  # once in ten minutes, and an earlier test may have viewed it
    assert "CANARY" not in repr(site.events)
    assert "20260301" in repr(site.events)


def test_pseudonyms_hide_what_the_files_hold(tmp_path: Path) -> None:
    privacy = {"pseudonymise": True, "pseudonym_key": "k" * 32}
    with serving(tmp_path, privacy=privacy) as site:
        secrets = ("Müller", "M\\u00fcller", "ID-a", "ACC-a", "19700101")
        urls = [f"/dicom-web/{kind}?includefield=all" for kind in ("studies", "series", "instances")]
        urls += [f"{BASE}/metadata", f"{BASE}/series/{SERIES}/metadata"]
        for url in urls:
            answer = site.reader.get(url)
            assert answer.status_code == 200
            assert not [secret for secret in secrets if secret in answer.text]
        (study,) = site.client.search_for_studies(search_filters={"PatientID": "ID-a"})
        assert _values([study], "PatientID") == [site.database.pseudonym("ID-a") if site.database.pseudonym else None]
        guesses = {"PatientName": "M*", "PatientBirthDate": "19700101", "PatientSex": "F", "StudyID": "1"}
        for key, value in guesses.items():
            assert site.client.search_for_studies(search_filters={key: value}) == []
        assert site.reader.get(BASE).status_code == 403
        (frame,) = site.client.retrieve_instance_frames(STUDY, SERIES, FIRST, [1])
        assert frame == mr_instance(1, "a").PixelData
        metadata = site.client.retrieve_study_metadata(STUDY)
        (report,) = [dataset for dataset in metadata if _values([dataset], "Modality") == ["SR"]]
        assert "Glioma" in json.dumps(report)


# --- OHIF ------------------------------------------------------------------------------------------------------


def test_ohif_is_served_from_its_folder_alone_and_to_whom_may_look(site: Site) -> None:
    """The viewer itself is tried in tests/acceptance/test_ohif.py, where it is installed."""
    page = {"Accept": "text/html"}
    link = f'href="/ohif/viewer?StudyInstanceUIDs={STUDY}&amp;initialSeriesInstanceUID={SERIES}"'
    assert site.reader.get("/ohif/").status_code == 404
    assert link not in site.reader.get(f"/series/{SERIES}").text
    folder = site.data_dir / "ohif"
    folder.mkdir()
    (folder / "index.html").write_text("<html><script>window.PUBLIC_URL='/ohif/'</script></html>")
    (folder / "part.wasm").write_bytes(b"\0asm")
    shown = site.reader.get("/ohif/viewer?StudyInstanceUIDs=1.2.3", headers=page)
    digest = base64.b64encode(hashlib.sha256(b"window.PUBLIC_URL='/ohif/'").digest()).decode()
    assert f"'sha256-{digest}'" in shown.headers["content-security-policy"]
    assert "unsafe-eval'" not in shown.headers["content-security-policy"].replace("'wasm-unsafe-eval'", "")
    stranger = site.reader.get("/ohif/", headers=page | {"Authorization": ""}, follow_redirects=False)
    assert stranger.status_code == 401
    assert link in site.reader.get(f"/series/{SERIES}").text
    assert site.reader.get("/ohif/part.wasm").headers["content-type"] == "application/wasm"
    assert site.reader.get("/ohif/notfoundstudy").text == shown.text
    config = site.reader.get("/ohif/app-config.js").text
    assert '"qidoRoot": "/dicom-web"' in config
    assert "window.config.extensions.push" in config
    for path in ("..%2Fworker.db", "../worker.db", "%2e%2e/worker.db", "/etc/passwd", "index.html", "none.js"):
        assert site.reader.get(f"/ohif/{path}").status_code == 404


def test_a_file_that_the_disk_has_damaged_is_not_given_out(tmp_path: Path) -> None:
    instance = f"{BASE}/series/{SERIES}/instances/{FIRST}"
    with serving(tmp_path) as site:
        with site.database.read() as session:
            row = session.scalars(select(InstanceRow).where(InstanceRow.sop_instance_uid == FIRST)).one()
        path = tmp_path / row.path
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        accept = {"Accept": "application/dicom; transfer-syntax=*"}
        assert site.reader.get(instance, headers=accept).status_code == 410
        for below in ("/frames/1", "/rendered", "/thumbnail", "/bulkdata/7FE00010"):
            assert site.reader.get(instance + below, headers={"Accept": "*/*"}).status_code == 410, below
        parts = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
        series = site.reader.get(f"{BASE}/series/{SERIES}", headers=parts)
        assert (series.status_code, series.content.count(b"DICM")) == (206, 2)
        assert 'mri_worker_files_faulty{fault="damaged"} 1.0' in site.reader.get("/metrics").text
        path.write_bytes(whole)
        assert site.reader.get(instance, headers=accept).status_code == 200
        assert site.reader.get(f"{BASE}/series/{SERIES}", headers=parts).status_code == 200


def test_a_stored_header_that_is_a_bomb_hurts_no_query(site: Site) -> None:
    keeper = InstanceKeeper(site.database, site.data_dir, lambda: later(0), 0)
    keeper.keep(bombs.request("15 MiB of names"))
    keeper.close()
    series = "/dicom-web/studies/1.2.3.4.5/series/1.2.3.4.6"
    headers = {"Accept": "application/dicom+json"}
    tracemalloc.start()
    try:
        for path in (f"{series}/metadata", f"{series}/instances?includefield=all", f"{series}/instances?Rows=16"):
            answer = site.reader.get(path, headers=headers)
            assert answer.status_code in (200, 204), path
            assert len(answer.content) < 1 << 16
        _, highest = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert highest < 4 * 16 * bombs.MIB
