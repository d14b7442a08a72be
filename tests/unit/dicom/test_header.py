from __future__ import annotations

import tracemalloc
from io import BytesIO
from itertools import count

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tests.faults import mutate
from tests.testbed.instances import encoded, mr_instance
from worker.dicom.header import HEADER_BYTES, read_header


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
    bomb = next(
        one for one in map(mutate.dataset, count()) if one.kind == "deflate bombs" and len(one.encoded) > 1 << 16
    )
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
