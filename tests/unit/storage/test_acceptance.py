"""From the bytes of an instance to the values of its row, or to the status with which it is refused."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import CTImageStorage

from tests.testbed.instances import mr_instance, new_instance, received
from tests.unit.dicom.test_odd_values import with_vr
from worker.dicom import standard
from worker.dicom.text.printable import LONGEST_TEXT
from worker.errors import RefusedInstance
from worker.storage import acceptance
from worker.storage.acceptance import (
    StoreRequest,
    conflict_path,
    instance_path,
    pseudonymised,
    read_instance,
    request_of_file,
    require_storable,
)
from worker.storage.spool import FileContent


def test_an_instance_is_storable_by_its_sop_class_and_size() -> None:
    request = received(mr_instance())
    require_storable(request)
    for refused, expected in (
        (replace(request, affected_sop_class_uid=CTImageStorage), (standard.SOP_CLASS_NOT_SUPPORTED, "sop-class")),
        (replace(request, encoded=b"", is_too_large=True), (standard.OUT_OF_RESOURCES, "dataset-too-large")),
    ):
        with pytest.raises(RefusedInstance) as fault:
            require_storable(refused)
        assert (fault.value.status, fault.value.reason) == expected


def test_a_row_has_what_the_header_says() -> None:
    request = replace(received(mr_instance(7)), association_id=3)
    row = read_instance(request, instance_path)
    assert (row.patient_id, row.patient_name, row.accession_number) == ("ID-a", "Family^a", "ACC-a")
    assert (row.modality, row.series_description, row.study_date) == ("MR", "t1", "20260301")
    assert (row.size, row.association_id) == (len(request.encoded), 3)
    assert row.path == instance_path(row.series_instance_uid, row.sha256)
    assert row.attributes["image_type"] == ["ORIGINAL", "PRIMARY", "M"]
    assert row.attributes["frames"] == 1


def test_a_file_describes_its_own_request_in_memory_and_on_disk(tmp_path: Path) -> None:
    expected = replace(received(mr_instance(7)), association_id=3)
    assert request_of_file(expected.encoded, 3) == expected
    path = tmp_path / "instance.dcm"
    path.write_bytes(expected.encoded)
    content = FileContent(str(path), len(expected.encoded))
    assert request_of_file(content, 3) == replace(expected, encoded=content)
    for unreadable in (b"", b"no DICOM at all", FileContent(str(tmp_path / "missing.dcm"))):
        with pytest.raises(RefusedInstance):
            read_instance(request_of_file(unreadable), instance_path)


@pytest.mark.parametrize("vr", [b"  ", b"\0\0", b"??"])
def test_an_element_without_a_usable_vr_hides_no_uid(vr: bytes) -> None:
    expected = received(mr_instance())
    for keyword in ("ImageType", "SOPInstanceUID", "Modality"):
        request = replace(expected, encoded=with_vr(expected.encoded, keyword, vr))
        assert replace(read_instance(request, instance_path), sha256="", path="") == replace(
            read_instance(expected, instance_path), sha256="", path=""
        )


def test_a_modality_in_small_letters_is_found_as_the_others() -> None:
    request = received(mr_instance())
    small = replace(request, encoded=request.encoded.replace(b"CS\2\0MR", b"CS\2\0mr"))
    row = read_instance(small, instance_path)
    assert row.sha256 != read_instance(request, instance_path).sha256
    assert (row.modality, row.attributes["modality"]) == ("MR", "MR")


def test_several_values_are_shown_as_they_were_sent() -> None:
    ds = mr_instance(PatientID="A\\B", AccessionNumber=["1", "2"], PatientName="Family^A\\Other^B")
    row = read_instance(received(ds), instance_path)
    assert (row.patient_id, row.accession_number, row.patient_name) == ("A\\B", "1\\2", "Family^A\\Other^B")
    assert row.attributes["identity"]["patient"] == "A\\B"


def test_a_pseudonymised_row_has_no_identifier_and_no_free_text() -> None:
    row = read_instance(received(mr_instance()), instance_path)
    hidden = pseudonymised(row, lambda identifier: f"P{len(identifier)}")
    assert (hidden.patient_id, hidden.accession_number) == ("P4", "P5")
    assert (hidden.patient_name, hidden.series_description) == ("", "")
    assert replace(
        hidden, patient_id=row.patient_id, accession_number=row.accession_number, patient_name=row.patient_name,
        series_description=row.series_description, attributes=row.attributes,
    ) == row  # fmt: skip
    assert hidden.attributes == row.attributes | {
        "identity": row.attributes["identity"] | {"patient": "P4", "person": "P16"}
    }


def test_each_content_of_an_instance_has_a_conflict_path_of_its_own() -> None:
    paths = {conflict_path(new_instance(1, sha256=content * 32)) for content in ("ab", "cd")}
    assert len(paths) == 2
    assert len({path.rpartition("/")[0] for path in paths}) == 1
    assert all(path.startswith("conflicts/") for path in paths)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"StudyInstanceUID": None}, "invalid-uid"),
        ({"SeriesInstanceUID": ""}, "invalid-uid"),
        ({"SeriesInstanceUID": "../../etc/passwd"}, "invalid-uid"),
        ({"SOPInstanceUID": "1." * 40 + "1"}, "invalid-uid"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4\x01"}, "invalid-uid"),
        ({"SeriesInstanceUID": "1.2.3\x80"}, "invalid-uid"),
        ({"StudyInstanceUID": "1.2\\1.3"}, "invalid-uid"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI", "ignore:The value length")
def test_a_dataset_without_usable_uids_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RefusedInstance) as refused:
        read_instance(received(mr_instance(**changes)), instance_path)
    assert (refused.value.status, refused.value.reason) == (standard.DATASET_MISMATCH, reason)


def test_command_and_dataset_must_name_the_same_instance() -> None:
    request = received(mr_instance(1))
    other = StoreRequest(request.affected_sop_class_uid, "1.2.3.4", request.transfer_syntax_uid, request.encoded, None)
    with pytest.raises(RefusedInstance) as refused:
        read_instance(other, instance_path)
    assert (refused.value.status, refused.value.reason) == (standard.DATASET_MISMATCH, "uid-mismatch")


@given(noise=st.binary(max_size=400))
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_bytes_end_in_a_status(noise: bytes) -> None:
    request = received(mr_instance())
    hostile = StoreRequest(
        request.affected_sop_class_uid,
        request.affected_sop_instance_uid,
        request.transfer_syntax_uid,
        request.encoded[:200] + noise,
        None,
    )
    with pytest.raises(RefusedInstance):
        read_instance(hostile, instance_path)


@given(
    values=st.fixed_dictionaries(
        {
            keyword: st.binary(max_size=20).map(lambda value: value + b" " * (len(value) % 2))
            | st.from_regex(rb"[ -~]{0,20}", fullmatch=True).map(lambda value: value + b" " * (len(value) % 2))
            for keyword in ("PatientID", "AccessionNumber", "Modality", "StudyDate", "SeriesDescription", "ImageType")
        }
        | {"ImagePositionPatient": st.sampled_from([b"1\\2.5\\-3 ", b"1\\x\\3 ", b" 1e2\\ 2\\3", b"1\\2 ", b""])}
    )
)
@settings(
    max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], deadline=None
)
def test_plain_values_are_read_as_pydicom_reads_them(monkeypatch: pytest.MonkeyPatch, values: dict[str, bytes]) -> None:
    place = b"1\\0\\0\\0\\1\\0 "
    raw = {Tag(keyword): value for keyword, value in (values | {"ImageOrientationPatient": place}).items()}
    read = []
    for plain in (acceptance._PLAIN_VRS, ()):
        monkeypatch.setattr(acceptance, "_PLAIN_VRS", plain)
        elements = {
            tag: RawDataElement(tag, dictionary_VR(tag), len(value), value, 0, False, True)
            for tag, value in raw.items()
        }
        ds = Dataset(elements)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            texts = [acceptance._text(ds, keyword) for keyword in values if keyword != "ImagePositionPatient"]
            read.append((texts, acceptance._code_strings(ds, "ImageType"), acceptance._plane(ds)))
    assert read[0] == read[1]


@given(st.text())
def test_a_path_stays_inside_whatever_the_uid(series: str) -> None:
    path = instance_path(series.encode("utf-8", "replace").decode(), "ab" * 32)
    assert ".." not in path
    assert path.startswith("instances/")
    assert path.count("/") == 3


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, {"number": 3.0, "thickness": 5.0}),
        ({"SpacingBetweenSlices": "5.5"}, {"number": 3.0, "thickness": 5.0, "spacing": 5.5}),
        ({"InstanceNumber": None, "SliceThickness": ""}, {}),
    ],
)
def test_the_receiver_keeps_what_a_slice_says_of_its_neighbours(
    changes: dict[str, Any], kept: dict[str, float]
) -> None:
    attributes = read_instance(received(mr_instance(3, **changes)), instance_path).attributes
    assert {name: attributes[name] for name in ("number", "spacing", "thickness") if name in attributes} == kept


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({}, [1, 0, 0, 0, 1, 0, 0, 0, 10]),
        ({"ImagePositionPatient": None}, None),
        ({"ImagePositionPatient": [0, 0]}, None),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1, 1e9]}, None),
    ],
)
def test_the_receiver_keeps_where_a_slice_lies(changes: dict[str, Any], place: list[float] | None) -> None:
    assert read_instance(received(mr_instance(2, **changes)), instance_path).attributes["place"] == place


@pytest.mark.parametrize("text", [b"nan", b"inf", b"1e999", b"abc"])
def test_a_place_that_is_no_number_is_none(text: bytes) -> None:
    """NaN above all: PostgreSQL would not take the row."""
    request = received(mr_instance(1, ImagePositionPatient=[0, 0, 123456]))
    damaged = request.encoded.replace(b"123456.0", text.ljust(8))
    assert damaged != request.encoded
    assert read_instance(replace(request, encoded=damaged), instance_path).attributes["place"] is None


@pytest.mark.parametrize("text", [b"nan", b"inf", b"1e999", b"abc"])
def test_a_spacing_that_is_no_number_is_none(text: bytes) -> None:
    request = received(mr_instance(1, SpacingBetweenSlices="123.456"))
    damaged = request.encoded.replace(b"123.456", text.ljust(7))
    assert damaged != request.encoded
    assert "spacing" not in read_instance(replace(request, encoded=damaged), instance_path).attributes


def test_text_is_kept_whole_also_where_it_is_longer_than_its_vr_allows() -> None:
    with warnings.catch_warnings(action="ignore"):
        ds = mr_instance(
            AccessionNumber="A" * 17,
            PatientID=["7" * 65, "8"],
            PatientName="Doe^" + "J" * 400,
            SeriesDescription="d" * 65,
            StudyDate="2026.03.01",
            Modality="MR",
            SpecificCharacterSet="ISO_IR 192",
        )
        new = read_instance(received(ds), instance_path)
    assert (new.accession_number, new.patient_id) == ("A" * 17, "7" * 65 + "\\8")
    assert new.patient_name == "Doe^" + "J" * 400
    assert (new.series_description, new.study_date) == ("d" * 65, "2026.03.01")


def test_a_text_too_long_for_a_row_is_no_other_patients_number() -> None:
    with warnings.catch_warnings(action="ignore"):
        ids = [
            read_instance(received(mr_instance(PatientID="7" * 600 + end)), instance_path).patient_id for end in "ab"
        ]
    assert len(set(ids)) == 2
    assert all(len(patient_id) == LONGEST_TEXT and "\u2026" in patient_id for patient_id in ids)
