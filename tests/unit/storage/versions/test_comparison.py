from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.testbed.instances import encoded, mr_instance, received
from worker.db.instances import NewInstance
from worker.storage.acceptance import instance_path, read_instance
from worker.storage.versions.comparison import Difference, StoredContent, difference


def _written(folder: Path, **changes: object) -> NewInstance:
    new = read_instance(received(mr_instance(**changes)), instance_path)
    path = folder / new.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(mr_instance(**changes)))
    return new


@pytest.fixture
def stored(tmp_path: Path) -> StoredContent:
    new = _written(tmp_path)
    return StoredContent(new.sop_class_uid, new.transfer_syntax_uid, new.path, new.size, new.sha256, is_removed=False)


def _difference(stored: StoredContent, folder: Path, new: NewInstance) -> Difference | None:
    return difference(stored, folder, new, str(folder / new.path))


def test_other_attributes_are_no_difference(stored: StoredContent, tmp_path: Path) -> None:
    assert _difference(stored, tmp_path, _written(tmp_path, PatientID="2", SeriesInstanceUID="1.2")) is None


def test_each_difference_has_its_word(stored: StoredContent, tmp_path: Path) -> None:
    same, other = _written(tmp_path, PatientID="2"), _written(tmp_path, PixelData=bytes(512))
    assert _difference(stored, tmp_path, other) is Difference.PIXELS
    assert _difference(stored, tmp_path, replace(same, sop_class_uid="1.2")) is Difference.SOP_CLASS
    assert _difference(stored, tmp_path, replace(same, transfer_syntax_uid="1.2")) is Difference.TRANSFER_SYNTAX
    assert _difference(replace(stored, is_removed=True), tmp_path, same) is Difference.NOT_COMPARABLE


@pytest.mark.parametrize("content", [None, b"", b"\0" * 800])
def test_a_damaged_or_missing_file_compares_with_nothing(
    stored: StoredContent, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / stored.path
    path.unlink() if content is None else path.write_bytes(content)
    assert _difference(stored, tmp_path, _written(tmp_path, PatientID="2")) is Difference.NOT_COMPARABLE
