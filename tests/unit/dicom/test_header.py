"""Headers, read with bounded memory."""

from __future__ import annotations

import tracemalloc
from io import BytesIO
from itertools import count
from pathlib import Path

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.faults import mutate
from tests.testbed.instances import encoded, mr_instance
from worker.dicom.header import HEADER_BYTES, read_header, read_stored_header


@pytest.mark.parametrize("keywords", [None, ["PatientID", "SeriesInstanceUID"]])
def test_a_deflated_file_gives_the_header_that_the_plain_one_gives(keywords: list[str] | None) -> None:
    ds = mr_instance()
    plain = encoded(ds)
    content = mutate.encode(ds, DeflatedExplicitVRLittleEndian)
    deflated = mutate.as_file(
        mutate.Mutant("", DeflatedExplicitVRLittleEndian, ds.SOPClassUID, ds.SOPInstanceUID, content)
    )
    expected = read_header(BytesIO(plain), keywords)
    assert "PixelData" not in expected
    assert read_header(BytesIO(deflated), keywords) == expected


def test_a_deflate_bomb_is_not_inflated() -> None:
    mutants = map(mutate.dataset, count())
    bomb = next(mutant for mutant in mutants if mutant.kind == "deflate bombs" and len(mutant.encoded) > 1 << 16)
    file = BytesIO(mutate.as_file(bomb))
    tracemalloc.start()
    try:
        read_header(file, ["PatientID"])
    except (EOFError, OSError):
        pass  # cut in the middle of the value that is the bomb
    finally:
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert highest < 4 * HEADER_BYTES < mutate.BOMB_BYTES


def test_a_stored_header_is_read_without_what_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, rows = encoded(mr_instance()), b"\x28\x00\x10\x00US"
    assert content.count(rows + b"\x02\x00\x10\x00") == 1
    (tmp_path / "odd.dcm").write_bytes(content.replace(rows + b"\x02\x00\x10\x00", rows + b"\x01\x00\x10"))
    ds = read_stored_header(tmp_path / "odd.dcm", ["Rows", "Columns", 0x00100020])
    assert {element.keyword: element.value for element in ds} == {"Columns": 16, "PatientID": "ID-a"}
    (tmp_path / "folder.dcm").mkdir()
    assert len(read_stored_header(tmp_path / "folder.dcm")) == 0
    assert "header not read" in "".join(capsys.readouterr())
    assert len(read_stored_header(tmp_path / "gone.dcm")) == 0
    assert capsys.readouterr() == ("", "")  # retention may have deleted it
