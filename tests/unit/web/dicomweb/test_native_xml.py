from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from tests.testbed.waiting import patience
from worker.web.dicomweb.dicom_json import as_json
from worker.web.dicomweb.native_xml import as_xml

DCM2XML = shutil.which("dcm2xml")


def _dataset() -> Dataset:
    """Names in two scripts, empty and several values, items, a private block, and what XML must escape."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID, ds.SOPInstanceUID = MRImageStorage, "1.2.3"
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.AccessionNumber = ""
    ds.PatientName = "Müller^Ada^^Dr.=山田^太郎"
    ds.PatientID = 'a<b>&"c'
    ds.DerivationDescription = "one\r\ntwo"
    ds.PixelSpacing = [0.5, 0.25]
    ds.Rows = 3
    ds.FrameIncrementPointer = 0x00181063
    block = ds.private_block(0x0019, "ACME 1", create=True)
    block.add_new(0x10, "LO", "of the block")
    coded = Dataset()
    coded.CodeValue, coded.CodeMeaning = "1", "one"
    ds.ConceptNameCodeSequence = [coded, Dataset()]
    return ds


Node = tuple[str, dict[str, str], str, list["Node"]]


def _node(element: ElementTree.Element) -> Node:
    """Without namespaces, and without the white space that is between elements."""
    children = [_node(child) for child in element]
    return (
        element.tag.rpartition("}")[2],
        dict(element.attrib),
        "" if children else (element.text or "").strip(),
        children,
    )


@pytest.mark.skipif(DCM2XML is None, reason="DCMTK is not installed")
def test_it_equals_what_dcmtk_makes_of_the_same_dataset(tmp_path: Path) -> None:
    ds = _dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dcmwrite(tmp_path / "a.dcm", ds, enforce_file_format=True)
    command = [str(DCM2XML), "--native-format", "--use-xml-namespace", str(tmp_path / "a.dcm")]
    theirs = subprocess.run(command, capture_output=True, check=True, timeout=patience(60)).stdout
    assert _node(ElementTree.fromstring(as_xml(as_json(ds)))) == _node(ElementTree.fromstring(theirs))


def test_binary_values_are_inline_or_an_address() -> None:
    dataset = {
        "00280010": {"vr": "OB", "InlineBinary": "AQI="},
        "7FE00010": {"vr": "OW", "BulkDataURI": "http://a/?b&c"},
    }
    inline, bulk = ElementTree.fromstring(as_xml(dataset)).findall("{*}DicomAttribute/*")
    assert inline.text == "AQI="
    assert bulk.get("uri") == "http://a/?b&c"


def test_a_character_that_xml_cannot_hold_is_left_out() -> None:
    dataset = {"00100020": {"vr": "LO", "Value": ["a\x00\x1b\ud800b"]}}
    assert [value.text for value in ElementTree.fromstring(as_xml(dataset)).findall(".//{*}Value")] == ["ab"]
