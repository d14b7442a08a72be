"""Which datasets match which keys: PS3.4 C.2.2.2."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.errors import BytesLengthException
from pydicom.tag import Tag

from worker.dicom import matching
from worker.dicom.matching import (
    MOST_COMPARED,
    MOST_VALUES,
    Key,
    KeyTooLarge,
    keys_of,
    keys_of_parameters,
    matches,
    matches_value,
)


def dataset(**values: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        ds.add(DataElement(keyword, dictionary_VR(keyword), value, validation_mode=IGNORE))
    return ds


def tags(name: str) -> tuple[int, ...]:
    return tuple(tag_for_keyword(keyword) or 0 for keyword in name.split("."))


@pytest.mark.parametrize(
    ("keyword", "key", "value", "is_match"),
    [
        ("StudyTime", "10", "100000.000", True),
        ("StudyTime", "10-12", "125959.9", True),
        ("StudyTime", "10-12", "130000", False),
        ("StudyTime", "-0930", "093059", True),
        ("StudyTime", "0931-", "093059", False),
        ("StudyTime", "10-", "", False),
        ("StudyTime", "120500", "1205", True),
        ("StudyTime", "12:05:00", "120500", True),
        ("StudyTime", "1200-1210", "1205", True),
        ("StudyTime", "-1204", "1205", False),
        ("StudyTime", "-1205", "1205", True),
        ("SeriesDate", "20260101-20260131", "20260131", True),
        ("SeriesDate", "20260131", "20260131", True),
        ("SeriesDate", "20260302-", "20260301", False),
        ("SeriesDate", "2026-2026", "20260301", True),
        ("SeriesDate", "202602-202602", "20260301", False),
        ("SeriesDate", "202603*", "20260301", False),
        ("SeriesNumber", "3", "03", True),
        ("SeriesNumber", "0", "0", True),
        ("SeriesNumber", "3", "30", False),
        ("SeriesNumber", "7.0", "7", True),
        ("SeriesNumber", "+7", "7", True),
        ("SeriesNumber", "x", "7", False),
        ("SliceThickness", "5", "5.00", True),
        ("SliceThickness", "0.5e1", "5.0", True),
        ("SliceThickness", "sNaN", "5.0", False),
        ("Rows", "16.0", 16, True),
        ("Rows", "1*", 16, False),
        ("StudyDescription", "MR*brain?", "MR of brain1", True),
        ("StudyDescription", "MR*brain?", "MR of brain", False),
        ("StudyDescription", "a.c", "abc", False),
        ("StudyDescription", "[ab]*", "abc", False),
        ("StudyDescription", "MR [head]", "MR [head]", True),
        ("StudyDescription", "Brain", "BRAIN", False),
        ("StudyDescription", "mr*", "MR head", False),
        ("StudyDescription", ".*", "MR head", False),
        ("StudyDescription", " MR ", "MR", True),
        ("ImageType", "DERIVED", "DERIVED\\SECONDARY", True),
        ("ImageType", "SECONDARY", "DERIVED\\SECONDARY", True),
        ("ImageType", "PRIMARY", "DERIVED\\SECONDARY", False),
        ("SOPClassUID", "1.2.4\\1.2.3", "1.2.3", True),
        ("SOPClassUID", "1.2.*", "1.2.3", False),
        ("FrameIncrementPointer", "00181063", 0x00181063, True),
        ("FrameIncrementPointer", "(0018,1063)", 0x00181063, True),
        ("TextValue", "a\\b", "a\\b", True),
    ],
)
def test_a_value_matches_as_its_representation_asks(keyword: str, key: str, value: Any, is_match: bool) -> None:
    keys = keys_of_parameters([(tags(keyword), key)])
    assert matches(keys, dataset(**{keyword: value})) is is_match
    assert not matches(keys, Dataset())
    assert not matches(keys, dataset(**{keyword: None}))


@pytest.mark.parametrize(
    ("key", "value", "is_match"),
    [
        ("19980128103000.0000", "19980128103000", True),  # C.2.2.2.1.3, note 1
        ("19980128103000+0000", "19980128073000-0300", True),
        ("19980128103000+0000", "19980128103000-0300", False),
        ("19980128103000+0100", "19980128103000", True),  # a zone that is not known is taken for the same
        ("1998-1999", "19991231235959.999999", True),
        ("19980128-", "19980127235959", False),
        ("-19980128", "19980128235959", True),
        ("19980128103000-0500-", "19980128150000+0000", False),
        ("19980128103000-0500-", "19980128153000+0000", True),
        ("19980128103000-0500-19980128113000-0500", "19980128163000+0000", True),
        ("19980128103000-0500-19980128113000-0500", "19980128163100+0000", False),
        ("19980128", "yesterday", False),
        ("a-b", "19980128", False),
        ("-" * 60_000, "19980128", False),
        ("00010101000000+1400", "00010101000000+1400", True),  # before the first day of the calendar in UTC
    ],
)
def test_moments_match_by_what_they_mean(key: str, value: str, is_match: bool) -> None:
    assert matches_value("DT", key, value) is is_match


def test_a_key_of_nothing_but_stars_matches_what_is_absent() -> None:
    for value in ("", "*", "**", "\\*", "A\\*"):
        assert keys_of_parameters([(tags("AccessionNumber"), value)]) == ()
        assert keys_of(dataset(AccessionNumber=value, StudyDate=value)) == ()
    assert keys_of(dataset(AccessionNumber=None, ConceptNameCodeSequence=[])) == ()


def test_a_single_item_of_a_sequence_matches_with_all_its_keys() -> None:
    items = [dataset(CodeValue="1", CodingSchemeDesignator="A"), dataset(CodeValue="2", CodingSchemeDesignator="B")]
    ds = dataset(ConceptNameCodeSequence=items)
    for code, scheme, is_match in [("1", "A", True), ("2", "", True), ("1", "B", False), ("3", "", False)]:
        key = dataset(CodeValue=code, CodingSchemeDesignator=scheme)
        assert matches(keys_of(dataset(ConceptNameCodeSequence=[key])), ds) is is_match
        sequence = "ConceptNameCodeSequence"
        parameters = [(tags(f"{sequence}.CodeValue"), code), (tags(f"{sequence}.CodingSchemeDesignator"), scheme)]
        assert matches(keys_of_parameters(parameters), ds) is is_match


def test_a_sequence_without_values_to_match_matches_everything() -> None:
    """C.2.2.2.6: such a key asks for the sequence to be returned."""
    assert keys_of(dataset(ConceptNameCodeSequence=[dataset(CodeValue="", CodeMeaning="*")])) == ()
    assert keys_of_parameters([(tags("ConceptNameCodeSequence.CodeValue"), "")]) == ()


def test_sequences_match_within_sequences() -> None:
    inner = dataset(ConceptNameCodeSequence=[dataset(CodeValue="1")])
    ds = dataset(ContentSequence=[Dataset(), inner])
    path = tags("ContentSequence.ConceptNameCodeSequence.CodeValue")
    assert matches(keys_of_parameters([(path, "1")]), ds)
    assert not matches(keys_of_parameters([(path, "2")]), ds)


def test_what_is_no_sequence_has_no_items_and_a_sequence_no_text() -> None:
    ds = dataset(PatientName="1", ConceptNameCodeSequence=[dataset(CodeValue="1")])
    assert not matches(keys_of_parameters([(tags("PatientName.CodeValue"), "1")]), ds)
    assert not matches(keys_of_parameters([(tags("ConceptNameCodeSequence"), "1")]), ds)


def test_a_list_of_uids_is_not_limited_and_other_values_are() -> None:
    many = "\\".join(f"1.{number}" for number in range(MOST_VALUES + 1))
    [key] = keys_of(dataset(StudyInstanceUID=many))
    assert len(key.values) == MOST_VALUES + 1
    for read in (
        lambda: keys_of(dataset(PatientID=many)),
        lambda: keys_of_parameters([(tags("PatientID"), many)]),
    ):
        with pytest.raises(KeyTooLarge):
            read()


@pytest.mark.parametrize(
    ("keyword", "value"), [("PatientID", "1" * 1025), ("StudyInstanceUID", "1" * 1025), ("PatientName", "a=b=c=d")]
)
def test_a_value_that_no_attribute_can_have_is_refused(keyword: str, value: str) -> None:
    with pytest.raises(KeyTooLarge):
        keys_of(dataset(**{keyword: value}))
    with pytest.raises(KeyTooLarge):
        keys_of_parameters([(tags(keyword), value)])


def test_keys_have_no_more_values_than_some_all_together() -> None:
    keywords = ("PatientID", "StudyID", "AccessionNumber", "Modality", "SeriesDescription")
    values = [(keyword, "\\".join(f"{number}*" for number in range(MOST_VALUES))) for keyword in keywords]
    assert len(keys_of_parameters([(tags(keyword), value) for keyword, value in values[:4]])) == 4
    for read in (
        lambda: keys_of(dataset(**dict(values))),
        lambda: keys_of_parameters([(tags(k), v) for k, v in values]),
    ):
        with pytest.raises(KeyTooLarge):
            read()


def test_a_key_is_compared_with_a_bounded_number_of_values(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []
    monkeypatch.setattr(matching, "matches_value", lambda _vr, _key, value: compared.append(value))
    keys = keys_of_parameters([(tags("ImageType"), "\\".join(f"{number}*" for number in range(MOST_VALUES)))])
    assert not matches(keys, dataset(ImageType="\\".join("A" for _ in range(2000))))
    assert len(compared) == MOST_COMPARED * MOST_VALUES


def test_a_sequence_of_many_items_is_refused() -> None:
    with pytest.raises(KeyTooLarge):
        keys_of(dataset(ConceptNameCodeSequence=[dataset(CodeValue="1")] * (MOST_VALUES + 1)))


def test_a_value_that_cannot_be_read_matches_nothing() -> None:
    ds = Dataset()
    rows = Tag("Rows")
    ds[rows] = RawDataElement(rows, "US", 1, b"\1", 0, False, True)
    with pytest.raises(BytesLengthException):
        ds.get(rows)
    assert not matches([Key(rows, "US", ("1",))], ds)


@pytest.mark.parametrize(
    ("days", "times", "combined", "separate"),
    [
        ("20060705-20060707", "1000-1800", True, False),  # the example of C.2.2.2.5.4
        ("20060705-20060707", "0500-1800", True, False),
        ("20060706-20060706", "0300-0400", False, False),
        ("20060705-", "1000-", True, False),
        ("-20060707", "-0100", True, False),
        ("20060705-20060707", "-1000", True, True),  # of another form: each for itself
        ("20060706", "0100-0300", True, True),
    ],
)
def test_a_date_and_its_time_may_be_a_single_range(days: str, times: str, combined: bool, separate: bool) -> None:
    ds = dataset(StudyDate="20060706", StudyTime="020000")
    keys = keys_of_parameters([(tags("StudyTime"), times), (tags("StudyDate"), days)])
    assert matches(keys, ds, combined_date_time=True) is combined
    assert matches(keys, ds) is separate
    assert not matches(keys, dataset(StudyTime="020000"), combined_date_time=True)
