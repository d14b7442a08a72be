"""Which keys a dataset matches, and what a hostile one tells."""

from __future__ import annotations

import json
import warnings

import pytest
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import tag_for_keyword

from worker.web.dicomweb.encoding import as_json, bulk_value
from worker.web.dicomweb.match import matches
from worker.web.dicomweb.parameters import InvalidQuery, Level, parse


def _dataset() -> Dataset:
    ds = Dataset()
    ds.PatientName, ds.StudyDescription, ds.StudyTime, ds.StudyDate = "Doe^Jane=山田", "MR [head]", "1205", "20260301"
    ds.InstanceNumber, ds.ImageType, ds.SOPClassUID = 7, ["DERIVED", "PRIMARY"], "1.2.3"
    item = Dataset()
    item.CodeValue = "126000"
    ds.ConceptNameCodeSequence = [item]
    return ds


@pytest.mark.parametrize(
    ("name", "wanted", "expected"),
    [
        ("PatientName", "doe^j*", True),
        ("PatientName", "山?", True),
        ("PatientName", "jane", False),
        ("StudyDescription", "MR [head]", True),
        ("StudyDescription", "mr*", False),
        ("StudyDescription", "MR ?head?", True),
        ("StudyDescription", ".*", False),
        ("StudyTime", "120500", True),
        ("StudyTime", "1200-1210", True),
        ("StudyTime", "-1204", False),
        ("StudyTime", "-1205", True),
        ("StudyDate", "20260302-", False),
        ("InstanceNumber", "07", True),
        ("InstanceNumber", "x", False),
        ("ImageType", "PRIMARY", True),
        ("ImageType", "SECONDARY", False),
        ("SOPClassUID", "1.2.4,1.2.3", True),
        ("AccessionNumber", "A", False),
        ("AccessionNumber", "**", True),
    ],
)
def test_a_key_matches_as_the_standard_says(name: str, wanted: str, expected: bool) -> None:
    tag = tag_for_keyword(name)
    assert tag is not None
    assert matches(_dataset(), [tag], wanted) is expected


def test_an_item_of_a_sequence_matches() -> None:
    path = [tag_for_keyword("ConceptNameCodeSequence") or 0, tag_for_keyword("CodeValue") or 0]
    assert matches(_dataset(), path, "126*")
    assert not matches(_dataset(), path, "1260")
    assert not matches(_dataset(), [tag_for_keyword("PatientName") or 0, path[1]], "126000")


@pytest.mark.parametrize("name", ["PatientNom", "00091001", "GGGG0010", "", "PatientName.", "0010"])
def test_an_unknown_key_is_said_to_be_one(name: str) -> None:
    with pytest.raises(InvalidQuery):
        parse([(name, "x")], Level.STUDY, {})


def test_values_that_are_none_are_left_out_of_the_json() -> None:
    ds = _dataset()
    odd = {
        "RescaleSlope": ("DS", "nan"),
        "SeriesNumber": ("IS", "one"),
        "StudyDate": ("DA", "2026-XX"),
        "PatientSex": ("CS", None),
    }
    for keyword, (vr, value) in odd.items():
        tag = tag_for_keyword(keyword)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            element = DataElement(tag or 0, vr, None)
            element._value = value
            ds[tag or 0] = element
    ds[0x00091001] = DataElement(0x00091001, "UN", b"\0" * 4, validation_mode=IGNORE)
    ds[0x00091002] = DataElement(0x00091002, "OB", bytes(2000), validation_mode=IGNORE)
    told = as_json(ds, bulk="http://x/bulkdata")
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert "00281053" not in told
    assert told["00091001"]["InlineBinary"] == "AAAAAA=="
    assert told["00091002"]["BulkDataURI"] == "http://x/bulkdata/00091002"
    assert told["00100010"]["Value"] == [{"Alphabetic": "Doe^Jane", "Ideographic": "山田"}]
    assert "00091002" not in as_json(ds)


def test_a_nested_binary_value_is_found_again() -> None:
    inner, ds = Dataset(), Dataset()
    inner.PixelData = b"\1\2" * 1000
    inner["PixelData"].VR = "OW"
    ds.IconImageSequence = [inner]
    address = as_json(ds, bulk="b")["00880200"]["Value"][0]["7FE00010"]["BulkDataURI"]
    assert bulk_value(ds, address.split("/")[1:]) == inner.PixelData
    for path in (["00880200", "1", "7FE00010"], ["x"], ["00880200"], [""], ["00880200", "0"]):
        assert bulk_value(ds, path) is None
