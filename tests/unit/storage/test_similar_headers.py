"""Rows of headers that are like earlier ones: the same as if each was read by itself, and read by the parser once."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from pydicom import Dataset, dcmwrite
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.testbed.instances import mr_instance, received
from worker.config.routing import RouteSection
from worker.db.instances import NewInstance
from worker.dicom.header import encoded_elements
from worker.dicom.odd_values import ignore_value_warnings
from worker.errors import RefusedInstance
from worker.storage import similar_headers
from worker.storage.acceptance import StoreRequest, instance_path, read_instance
from worker.storage.similar_headers import HeaderReader


def code(meaning: str) -> Dataset:
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = "12738006", "SCT", meaning
    return ds


@ignore_value_warnings()
def series_with(**changes: Any) -> list[StoreRequest]:
    """Three slices; `changes` of the second, whose number is 2."""
    return [received(mr_instance(number, **(changes if number == 2 else {}))) for number in (1, 2, 3)]


def outcome(read: Callable[..., NewInstance], *arguments: Any) -> NewInstance | tuple[int, str]:
    try:
        return read(*arguments)
    except RefusedInstance as refusal:
        return refusal.status, refusal.reason


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"InstanceNumber": None},
        {"InstanceNumber": ""},
        {"SliceThickness": None, "SpacingBetweenSlices": 6},
        {"ImagePositionPatient": [0, 0]},
        {"ImagePositionPatient": None},
        {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
        {"PatientName": "Müller^Jürgen", "SpecificCharacterSet": "ISO_IR 100"},
        {"PatientID": "another", "IssuerOfPatientID": "hospital"},
        {"SeriesDescription": "t2 flair", "EchoTime": "90", "ContrastBolusAgent": "Gd"},
        {"AnatomicRegionSequence": [code("Brain")]},
        {"SeriesInstanceUID": "no UID"},
        {"StudyDate": "", "AccessionNumber": "A\\B", "NumberOfFrames": 3},
        {"SeriesDescription": "x" * 9000},
    ],
)
@pytest.mark.parametrize("pseudonym", [None, str.swapcase])
def test_a_row_is_the_same_as_if_read_by_itself(
    changes: dict[str, Any], pseudonym: Callable[[str], str] | None
) -> None:
    rule = {"name": "r", "match": [{"attribute": "InstanceNumber", "equals": "2"}], "refuse": "no"}
    for routes in ([], [RouteSection.model_validate(rule)]):
        reader = HeaderReader(routes, pseudonym)
        for request in series_with(**changes) * 2:
            by_itself = outcome(read_instance, request, instance_path, routes, pseudonym)
            assert outcome(reader.read, request) == by_itself


def test_a_mutated_header_is_read_or_refused_as_if_by_itself() -> None:
    reader, numbers = HeaderReader([], None), random.Random(14)
    first, request, _ = series_with(AnatomicRegionSequence=[code("Brain")])
    reader.read(first)
    content = bytes(request.encoded)  # type: ignore[arg-type]
    for _ in range(150):
        mutant = bytearray(content)
        for _ in range(numbers.choice((1, 1, 2, 8))):
            mutant[numbers.randrange(132, len(content) - 512)] = numbers.choice((0, 0x20, 0x1B, 0x5C, 0xFF, 0x31))
        sent = replace(request, encoded=bytes(mutant))
        by_itself = outcome(read_instance, sent, instance_path)
        assert outcome(reader.read, sent) == by_itself


def scanned(number: int, syntax: str = ExplicitVRLittleEndian, uid: str | None = None) -> StoreRequest:
    """A slice with the elements of which scanners write other values, of other lengths, for each slice."""
    numbers = random.Random(number)
    ds = mr_instance(number, SOPInstanceUID=uid or f"1.2.3.{10 ** (number % 5)}.{number}")
    ds.SpecificCharacterSet, ds.AnatomicRegionSequence = "ISO_IR 100", [code("Brain")]
    ds["AnatomicRegionSequence"].is_undefined_length = number < 50
    ds.AcquisitionTime = "120000" + ".5" * (number % 2)
    ds.InstanceCreationTime, ds.SliceLocation, ds.WindowCenter = f"12{number:04}", 5.25 * number, 100 * number
    block = ds.private_block(0x0019, "TEST", create=True)
    block.add_new(1, "OB", numbers.randbytes(2 * numbers.randrange(300)))
    block.add_new(2, "UN", b"\xfe\xff\x00\xe0" + numbers.randbytes(8))
    request = received(ds)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.SourceApplicationEntityTitle = f"MR{number % 3}"
    buffer = BytesIO()
    ds.set_original_encoding(syntax == ImplicitVRLittleEndian, True, "latin-1")
    dcmwrite(buffer, ds, enforce_file_format=True)
    return replace(request, transfer_syntax_uid=syntax, encoded=buffer.getvalue())


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by an entry for each header that is walked, not compared as bytes."""
    walked: list[int] = []

    def note(encoded: bytes, *rest: Any) -> Any:
        walked.append(len(encoded))
        return encoded_elements(encoded, *rest)

    monkeypatch.setattr(similar_headers, "encoded_elements", note)
    return walked


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_headers_that_differ_where_slices_do_are_compared_as_bytes(syntax: UID, walks: list[int]) -> None:
    reader = HeaderReader([], None)
    for number in range(1, 40):
        request = scanned(number, syntax)
        assert reader.read(request) == read_instance(request, instance_path)
    assert len(walks) <= 6
    walks.clear()
    request = scanned(50, syntax)  # another encoding of a sequence: the shape is learnt anew
    for _ in range(2):
        assert reader.read(request) == read_instance(request, instance_path)
    assert len(walks) == 1


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_mutant_of_a_known_shape_is_read_or_refused_as_if_by_itself(syntax: UID) -> None:
    reader, numbers = HeaderReader([], None), random.Random(syntax)
    for number in range(1, 20):
        reader.read(scanned(number, syntax))
    known = reader._last[None]
    known.lessons = similar_headers._LESSONS  # what follows teaches nothing
    request = scanned(20, syntax)
    content = bytes(request.encoded)  # type: ignore[arg-type]
    usual = encoded_elements(content, syntax, reader._keywords, 1 << 13)
    end = content.rindex(b"\xe0\x7f\x10\x00")
    values = (b"", b"\0", b"\xff", b"\xff" * 4, b"\x1b", b"\\", b"12", b"\xfe\xff\x00\xe0", b"UN")
    fitting = 0
    for _ in range(500):
        mutant = bytearray(content)
        for _ in range(numbers.choice((1, 1, 1, 2))):
            place, value = numbers.randrange(128, end + 12), numbers.choice(values)
            mutant[place : place + numbers.choice((len(value), len(value), 1, 2))] = value
        sent = replace(request, encoded=bytes(mutant[: numbers.choice((len(mutant), len(mutant), end, place))]))
        reader._last[None] = known
        own = known.shape.own_elements(sent.encoded)
        if own is not None:
            fitting += 1
            changed = {element.tag: element for element in own}
            found = encoded_elements(sent.encoded, syntax, reader._keywords, 1 << 13)
            assert found == [changed.get(element.tag, element) for element in usual]
        assert outcome(reader.read, sent) == outcome(read_instance, sent, instance_path)
    assert fitting > 20


@pytest.mark.parametrize("element", [b"\x20\x00\x13\x00IS", b"\x20\x00\x32\x00DS"])
def test_a_long_value_in_a_gap_is_walked(element: bytes, walks: list[int]) -> None:
    reader = HeaderReader([], None)
    for number in range(1, 20):
        reader.read(scanned(number))
    walks.clear()
    before, _, rest = bytes(scanned(17).encoded).partition(element)  # type: ignore[arg-type]
    old = 2 + int.from_bytes(rest[:2], "little")
    for length in (256, 258):
        content = before + element + length.to_bytes(2, "little") + b"1" * length + rest[old:]
        request = replace(scanned(17), encoded=content)
        assert reader.read(request) == read_instance(request, instance_path)
    assert len(walks) == 1


def test_what_a_peer_varies_is_learnt_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    lessons: list[Any] = []
    monkeypatch.setattr(similar_headers, "_shape_of", lambda *arguments: lessons.append(arguments))
    reader = HeaderReader([], None)
    for number in range(1, 40):
        reader.read(scanned(number))
    assert len(lessons) == similar_headers._LESSONS


def test_the_command_must_name_what_the_dataset_names() -> None:
    reader = HeaderReader([], None)
    first, second, _ = series_with()
    reader.read(first)
    with pytest.raises(RefusedInstance) as refusal:
        reader.read(replace(second, affected_sop_instance_uid=first.affected_sop_instance_uid))
    assert refusal.value.reason == "uid-mismatch"


def test_the_parser_reads_a_series_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[StoreRequest] = []

    def note(request: StoreRequest, *rest: Any) -> NewInstance:
        parsed.append(request)
        return read_instance(request, *rest)

    monkeypatch.setattr(similar_headers, "read_instance", note)
    reader = HeaderReader([], None)
    for number in range(1, 30):
        reader.read(received(mr_instance(number)))
    assert len(parsed) == 1
    reader.read(received(mr_instance(1, series="b")))
    assert len(parsed) == 2


def test_rows_are_bounded_in_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar_headers, "_ROWS", 4)
    reader = HeaderReader([], None)
    for number in range(9):
        reader.read(received(mr_instance(1, series=f"s{number}")))
    assert 0 < len(reader._known) <= 4
    reader._known.clear()
    reader.read(series_with(SeriesDescription="x" * 9000, ProtocolName="y" * 9000)[1])
    assert reader._known == {}


def test_an_implicit_encoding_is_read_the_same() -> None:
    reader = HeaderReader([], None)
    for number in (1, 2):
        ds = mr_instance(number)
        explicit = received(ds)
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        buffer = BytesIO()
        dcmwrite(buffer, ds, enforce_file_format=True)
        request = replace(explicit, transfer_syntax_uid=ImplicitVRLittleEndian, encoded=buffer.getvalue())
        assert reader.read(request) == read_instance(request, instance_path)
