"""The DICOM JSON Model of a dataset, also of a hostile dataset."""

from __future__ import annotations

import json
import warnings

from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import tag_for_keyword

from worker.web.dicomweb.dicom_json import as_json, bulk_value


def _dataset() -> Dataset:
    ds = Dataset()
    ds.PatientName, ds.StudyDescription, ds.StudyTime, ds.StudyDate = "Doe^Jane=山田", "MR [head]", "1205", "20260301"
    ds.InstanceNumber, ds.ImageType, ds.SOPClassUID = 7, ["DERIVED", "PRIMARY"], "1.2.3"
    item = Dataset()
    item.CodeValue = "126000"
    ds.ConceptNameCodeSequence = [item]
    return ds


def test_invalid_values_are_left_out_of_the_json() -> None:
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
    dataset = as_json(ds, bulk="http://x/bulkdata")
    assert json.loads(json.dumps(dataset, allow_nan=False)) == dataset
    assert "00281053" not in dataset
    assert dataset["00091001"]["InlineBinary"] == "AAAAAA=="
    assert dataset["00091002"]["BulkDataURI"] == "http://x/bulkdata/00091002"
    assert dataset["00100010"]["Value"] == [{"Alphabetic": "Doe^Jane", "Ideographic": "山田"}]
    assert "00091002" not in as_json(ds)


def test_a_nested_binary_value_is_retrieved_by_its_address() -> None:
    inner, ds = Dataset(), Dataset()
    inner.PixelData = b"\1\2" * 1000
    inner["PixelData"].VR = "OW"
    ds.IconImageSequence = [inner]
    address = as_json(ds, bulk="b")["00880200"]["Value"][0]["7FE00010"]["BulkDataURI"]
    assert bulk_value(ds, address.split("/")[1:]) == inner.PixelData
    for path in (["00880200", "1", "7FE00010"], ["x"], ["00880200"], [""], ["00880200", "0"]):
        assert bulk_value(ds, path) is None
