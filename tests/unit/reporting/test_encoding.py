"""Objects of ours as files: the bytes are pydicom's."""

from __future__ import annotations

from copy import deepcopy
from io import BytesIO

import pytest
from pydicom import Dataset, dcmread, dcmwrite, filewriter
from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRLittleEndian, KeyObjectSelectionDocumentStorage

from tests.testbed import results
from worker.reporting.encoding import encode, encoded_item, encoded_items, encoded_reference, encoded_sequence
from worker.reporting.secondary_capture import build_key_object_selection, build_secondary_capture
from worker.reporting.source_attributes import code_item
from worker.reporting.sr import build_report
from worker.reporting.study_sr import build_study_report


def _as_pydicom_writes(ds: Dataset) -> bytes:
    buffer = BytesIO()
    dcmwrite(buffer, deepcopy(ds), enforce_file_format=True)
    return buffer.getvalue()


def _objects() -> dict[str, Dataset]:
    """Objects of every kind, with text beyond ASCII, frames and a report that is replaced."""
    series, enhanced = results.source_headers(), results.enhanced_header(12)
    for header in (*series, *enhanced):
        header.PatientName, header.SpecificCharacterSet = "山田^太郎=M\xfcller", "ISO_IR 192"
    found, in_frames = results.classified(series), results.classified(enhanced)
    report = build_report(found, results.MODEL, series, **results.ARGUMENTS)
    made = {
        "series": report,
        "series again": build_report(found, results.MODEL, series, **results.ARGUMENTS, predecessors=[report]),
        "frames": build_report(in_frames, results.MODEL, enhanced, **results.ARGUMENTS),
        "picture": build_secondary_capture(found, results.MODEL, series, **results.ARGUMENTS),
        "key objects": build_key_object_selection(in_frames, results.MODEL, enhanced, **results.ARGUMENTS),
    }
    for name in ("twelve series", "not assessed"):
        made[name] = build_study_report(results.STUDIES[name], results.MODEL, series[0], results.STUDY_IDENTITY)
    return made


OBJECTS = _objects()


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_has_the_bytes_that_pydicom_writes_and_no_item_is_walked(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = OBJECTS[name]
    expected = _as_pydicom_writes(made)
    walked: list[Dataset] = []
    resolve = filewriter.correct_ambiguous_vr
    monkeypatch.setattr(filewriter, "correct_ambiguous_vr", lambda ds, *rest: walked.append(ds) or resolve(ds, *rest))
    assert encode(made) == expected
    assert encode(made) == expected, "it can be encoded again"
    assert {type(ds) for ds in walked} == {FileMetaDataset}


def test_made_items_are_what_pydicom_makes_of_a_dataset() -> None:
    references = [("1.2.840.10008.5.1.4.1.1.4", "1.2.3"), ("1.2.840.10008.5.1.4.1.1.4.1", "1.2.34")]
    like, ds, expected = Dataset(), Dataset(), Dataset()
    like.RelationshipType, like.ConceptNameCodeSequence = "CONTAINS", [code_item(("121112", "DCM", "Source"))]
    items = [encoded_item(like), *encoded_items(like, [encoded_reference(*reference) for reference in references])]
    ds["ContentSequence"] = encoded_sequence("ContentSequence", items)
    expected.ContentSequence = [deepcopy(like) for _ in range(3)]
    for item, (sop_class, uid) in zip(expected.ContentSequence[1:], references, strict=True):
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = sop_class, uid
        item.ReferencedSOPSequence = [reference]
    for one in (ds, expected):
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID, one.SOPInstanceUID = KeyObjectSelectionDocumentStorage, "1.2.3"
    assert encode(ds) == encode(expected) == _as_pydicom_writes(expected)
    assert ds == expected


def test_items_of_every_origin_have_the_bytes_that_pydicom_writes() -> None:
    """Ambiguous VRs, other character sets, and elements that were read from a file of another encoding."""

    def stored(implicit: bool) -> Dataset:
        inner, outer = Dataset(), Dataset()
        inner.SmallestImagePixelValue, inner.PixelRepresentation, inner.SeriesDescription = 5, 0, "B\xe4rbel"
        inner.SpecificCharacterSet = outer.SpecificCharacterSet = "ISO_IR 100"
        outer.ReferencedStudySequence = [inner]
        buffer = DicomBytesIO()
        buffer.is_implicit_VR, buffer.is_little_endian = implicit, True
        filewriter.write_dataset(buffer, outer)
        return read_dataset(BytesIO(buffer.getvalue()), implicit, True)

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = KeyObjectSelectionDocumentStorage, "1.2.3"
    ds.SpecificCharacterSet, ds.PixelRepresentation = "ISO_IR 192", 1
    built, below, mixed = Dataset(), Dataset(), Dataset()
    below.add_new("SmallestImagePixelValue", "US or SS", -5)
    below.SeriesDescription = "\u5c71\u7530"
    built.ReferencedSeriesSequence = [below]
    mixed[0x0008103E] = stored(True).ReferencedStudySequence[0].get_item(0x0008103E)
    files = [stored(implicit).ReferencedStudySequence[0] for implicit in (True, False)]
    ds.ReferencedStudySequence = [built, mixed, *files]
    content = encode(deepcopy(ds))
    assert content == _as_pydicom_writes(ds)
    read = dcmread(BytesIO(content)).ReferencedStudySequence
    assert read[0].ReferencedSeriesSequence[0].SmallestImagePixelValue == -5
