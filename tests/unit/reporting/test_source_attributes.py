"""Patient and study attributes as archives hold them, and what our objects make of them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.charset import convert_encodings
from pydicom.config import RAISE
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.valuerep import validate_value

from tests.testbed import results
from tests.testbed.names import OTHER_NAMES, STANDARD_NAMES, set_raw
from worker.reporting.source_attributes import HostZone, left_out, patient_and_study, stamp


def cleaned(**attributes: Any) -> Dataset:
    return patient_and_study(results.source_headers(1, **attributes)[0])


@pytest.mark.parametrize(
    ("keyword", "given", "kept"),
    [
        ("PatientName", "Jane_Doe", "Jane_Doe"),
        ("PatientName", "Doe^Jane^^Dr^PhD", "Doe^Jane^^Dr^PhD"),
        ("PatientName", "a^b^c^d^e^f^g", "a^b^c^d^e f g"),
        ("PatientName", "A" * 70, ""),
        ("PatientName", "Doe^John=" + "y" * 65, ""),
        ("PatientName", "a=b=c=d", ""),
        ("PatientName", "Doe^John\\Doe^Jane", ""),
        ("PatientName", "=Yamada^Tarou=", "=Yamada^Tarou"),
        ("PatientName", None, ""),
        ("PatientID", "7" * 64, "7" * 64),
        ("PatientID", " 02/" + "7" * 70, ""),
        ("PatientID", "two\\values", ""),
        ("IssuerOfPatientID", "H" * 65, None),
        ("PatientBirthDate", "1966-01-01", "19660101"),
        ("PatientBirthDate", "1966.01.01", "19660101"),
        ("PatientBirthDate", "19660231", ""),
        ("PatientBirthDate", "unknown", ""),
        ("PatientSex", "X", ""),
        ("PatientSex", "f", "F"),
        ("PatientSex", "female", ""),
        ("PatientAge", "42", None),
        ("PatientAge", "42Y", "042Y"),
        ("StudyTime", "14:15", "1415"),
        ("StudyTime", "141559.123456", "141559.123456"),
        ("StudyTime", "2415", ""),
        ("StudyDate", "", ""),
        ("StudyID", None, ""),
        ("StudyID", "a study id of more than sixteen", ""),
        ("StudyID", "sixteen letters.", "sixteen letters."),
        ("AccessionNumber", "ACC-2026-0001234567", ""),
        ("ReferringPhysicianName", "D" * 65, ""),
        ("StudyDescription", "d" * 65, None),
        ("AccessionNumber", "A\tB\x00C", "ABC"),
        ("StudyDescription", "line\nbreak", "linebreak"),
    ],
)
def test_a_malformed_value_is_corrected_or_left_out_and_never_cut(
    keyword: str, given: str | None, kept: str | None
) -> None:
    value = cleaned(**{keyword: given}).get(keyword)
    assert (None if value is None else str(value)) == kept


@pytest.mark.parametrize(("character_set", "raw", "name"), [*STANDARD_NAMES, *OTHER_NAMES])
def test_name_survives_its_character_set(character_set: str | None, raw: bytes, name: str) -> None:
    source = results.source_headers(1, SpecificCharacterSet=character_set)[0]
    source.set_original_encoding(False, True, convert_encodings((character_set or "").split("\\")))
    set_raw(source, "PatientName", raw, "PN")
    clean = patient_and_study(source)
    assert clean.SpecificCharacterSet == "ISO_IR 192"
    assert str(clean.PatientName) == name


@pytest.mark.parametrize("character_set", ["PRIVATE 7", "ISO_IR 192", "\\ISO 2022 IR 87", "ISO_IR 6"])
def test_name_in_the_wrong_character_set_does_no_harm(character_set: str) -> None:
    clean = cleaned(SpecificCharacterSet=character_set, PatientName="Müller^Jürgen".encode("latin-1"))
    assert str(clean.PatientName).startswith("M")
    check_valid(clean)


@given(
    st.sampled_from(["PatientName", "PatientID", "PatientBirthDate", "PatientAge", "StudyTime", "StudyID"]), st.binary()
)
def test_any_bytes_become_a_valid_value(keyword: str, raw: bytes) -> None:
    check_valid(cleaned(**{keyword: raw}))


@given(
    st.sampled_from(["PatientName", "PatientAge", "StudyTime", "SpecificCharacterSet"]),
    st.sampled_from(["US", "FL", "FD", "SL", "AT", "DS", "UI", "SQ", "OB", "UN"]),
    st.binary(max_size=9),
)
@example("PatientAge", "SS", b"1")  # pydicom's BytesLengthException is no ValueError
def test_any_bytes_of_another_vr_become_a_valid_value(keyword: str, vr: str, raw: bytes) -> None:
    source = results.source_headers(1)[0]
    tag = Tag(keyword)
    source[tag] = RawDataElement(tag, vr, len(raw), raw, 0, False, True)
    check_valid(patient_and_study(source))


def check_valid(clean: Dataset) -> None:
    for element in clean:
        for value in element.value if element.VM > 1 else [element.value]:
            validate_value(element.VR, str(value), RAISE)
        assert element.VM <= 1 or element.keyword == "SpecificCharacterSet"


def test_what_does_not_fit_is_named_and_what_is_absent_is_not() -> None:
    [source] = results.source_headers(1, AccessionNumber="1" * 17, PatientID="7" * 65, StudyID=None, PatientAge="42")
    assert left_out(source) == ("PatientID", "AccessionNumber", "PatientAge")
    [source] = results.source_headers(1, PatientName="^^=^", StudyDescription=" ", FrameOfReferenceUID="1.2.x")
    assert left_out(source) == ("FrameOfReferenceUID",)
    assert left_out(results.source_headers(1)[0]) == left_out(Dataset()) == ()


def test_source_time_zone_governs() -> None:
    source = results.source_headers(1, TimezoneOffsetFromUTC="-0500")[0]
    ds = Dataset()
    stamp(ds, source, results.MODEL, datetime(2026, 11, 21, 3, 0, tzinfo=UTC), "0.1.0", "title")
    assert (ds.TimezoneOffsetFromUTC, ds.ContentDate, ds.ContentTime) == ("-0500", "20261120", "220000.000000")


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("study_date", "study_time", "offset", "content"),
    [
        ("20260715", "101500", "+0200", "130000.000000"),  # a summer study, sent in winter
        ("20260115", "101500", "+0100", "120000.000000"),
        ("20260329", "015959", "+0100", "120000.000000"),
        ("20260329", "030000", "+0200", "130000.000000"),
        ("20260715", "", "+0200", "130000.000000"),
        ("", "", "+0100", "120000.000000"),
        ("20260715", "235960", "+0200", "130000.000000"),
        ("nonsense", "nonsense", "+0100", "120000.000000"),
        ("00010101", "", "+0100", "120000.000000"),
    ],
)
@pytest.mark.usefixtures("berlin")
def test_the_offset_is_that_of_the_time_of_the_study(
    study_date: str, study_time: str, offset: str, content: str
) -> None:
    """It applies to every date and time of the object, of which Study Date and Time are the source's."""
    source = results.source_headers(1, StudyDate=study_date, StudyTime=study_time)[0]
    noon = datetime(2026, 1, 20, 11, 0, tzinfo=UTC).astimezone(HostZone())
    ds = Dataset()
    stamp(ds, source, results.MODEL, noon, "0.1.0", "title")
    assert (ds.TimezoneOffsetFromUTC, ds.ContentTime) == (offset, content)
    written = datetime.strptime(ds.ContentDate + ds.ContentTime + offset, "%Y%m%d%H%M%S.%f%z")
    assert written == noon


@pytest.mark.usefixtures("berlin")
def test_the_zone_of_the_host_knows_summer_and_the_hour_that_comes_twice() -> None:
    for utc in (datetime(2026, 7, 1, tzinfo=UTC), *(datetime(2026, 10, 25, hour, 30, tzinfo=UTC) for hour in range(3))):
        local = utc.astimezone(HostZone())
        assert local.utcoffset() == utc.astimezone().utcoffset()
        assert local.astimezone(UTC) == utc


def test_naive_time_is_refused() -> None:
    source = results.source_headers(1)[0]
    with pytest.raises(ValueError, match="aware"):
        stamp(Dataset(), source, results.MODEL, datetime(2026, 11, 21), "0.1.0", "title")


def test_no_warning_quotes_a_value() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cleaned(PatientName="CANARY", PatientBirthDate="CANARY", SpecificCharacterSet="CANARY", PatientAge="CANARY")
    assert caught == []
