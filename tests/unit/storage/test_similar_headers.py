"""Rows of headers that are like earlier ones: the same as if each was read by itself, and read by the parser once."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from pydicom import Dataset, dcmwrite
from pydicom.uid import ImplicitVRLittleEndian

from tests.testbed.instances import mr_instance, received
from worker.config.routing import RouteSection
from worker.db.instances import NewInstance
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
    assert 0 < len(reader._rows) <= 4
    reader._rows.clear()
    reader.read(series_with(SeriesDescription="x" * 9000, ProtocolName="y" * 9000)[1])
    assert reader._rows == {}


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
