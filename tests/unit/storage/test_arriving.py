"""What an arriving instance takes, and that all of it is given back."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from worker.dicom import standard
from worker.storage import spool as spools
from worker.storage.acceptance import StoreRequest
from worker.storage.arriving import ArrivingInstance, invalid_instance
from worker.storage.spool import Spool, SpooledFile


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    monkeypatch.setattr(spools, "SPOOL_BYTES", 100)
    return Spool(tmp_path, memory_bytes=1000, minimum_free_bytes=0)


def arriving(spool: Spool, maximum_bytes: int = 1000) -> ArrivingInstance:
    request = StoreRequest(MRImageStorage, "1.2.3", ExplicitVRLittleEndian, b"")
    return ArrivingInstance(spool, maximum_bytes, request, b"file ")


def test_a_small_dataset_follows_its_beginning(spool: Spool) -> None:
    instance = arriving(spool)
    for part in (b"one ", b"two"):
        instance.append(memoryview(part))
    assert instance.complete().encoded == b"file one two"
    assert spool.held_bytes == 7
    instance.close()
    instance.close()
    assert spool.held_bytes == 0


def test_a_large_dataset_takes_no_memory(spool: Spool, tmp_path: Path) -> None:
    instance = arriving(spool)
    for _ in range(10):
        instance.append(memoryview(bytes(60)))
    content = instance.complete().encoded
    assert isinstance(content, SpooledFile)
    assert (len(content), spool.held_bytes) == (605, 0)
    instance.close()
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_above_its_maximum_is_dropped_with_its_file(spool: Spool, tmp_path: Path) -> None:
    instance = arriving(spool, maximum_bytes=200)
    for _ in range(10):
        instance.append(memoryview(bytes(60)))
    request = instance.complete()
    assert (request.is_too_large, bytes(request.encoded[:5]), spool.held_bytes) == (True, b"file ", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_space_refuses_the_instance_and_reads_on(spool: Spool, tmp_path: Path) -> None:
    spool._minimum_free_bytes = 1 << 60
    instance = arriving(spool)
    for _ in range(3):
        instance.append(memoryview(bytes(60)))
    fault = instance.complete().fault
    assert fault is not None
    assert (fault.status, fault.reason, spool.held_bytes) == (standard.OUT_OF_RESOURCES, "no-space", 0)


def test_nothing_is_kept_for_a_command_without_an_instance(spool: Spool) -> None:
    instance = arriving(spool)
    instance.request.fault = invalid_instance()
    instance.append(memoryview(bytes(60)))
    assert spool.held_bytes == 0
