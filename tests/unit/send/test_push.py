"""Files go to a peer as they are; what the peer does not store is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.uid import MRImageStorage, SecondaryCaptureImageStorage

from tests.testbed.instances import new_instance, write_series
from tests.testbed.pacs import Behaviour, Pacs
from worker.db.instances import NewInstance
from worker.errors import Retry
from worker.ops.classify_folder import read_folder
from worker.send.destinations.c_store import CStoreDestination
from worker.send.push import _batches, push_files


def _members(folder: Path) -> list[tuple[Path, NewInstance]]:
    series, _ = read_folder(folder)
    return [member for members in series.values() for member in members]


def _push(pacs: Pacs, members: list[tuple[Path, NewInstance]]) -> tuple[int, list[tuple[Path, str]], int]:
    """As `push_files`, and how often it ticked."""
    ticks: list[None] = []
    peer = CStoreDestination(name="pacs", ae_title="PACS", host="127.0.0.1", port=pacs.port, timeout_seconds=5)
    stored, failures = push_files("pacs", peer, "AI_WORKER", members, lambda: ticks.append(None))
    return stored, failures, len(ticks)


def test_the_bytes_arrive_unchanged(tmp_path: Path) -> None:
    files = write_series(tmp_path, 3)
    with Pacs() as pacs:
        assert _push(pacs, _members(tmp_path)) == (3, [], 3)
    arrived = sorted(content[content.index(b"DICM") :] for content in pacs.stored.values())
    datasets = sorted(file.read_bytes()[-512:] for file in files)
    assert sorted(content[-512:] for content in arrived) == datasets


@pytest.mark.parametrize(
    ("status", "reason"),
    [(0xA700, "out of resources (status 0xA700)"), (0x0111, "duplicate SOP instance (status 0x0111)")],
)
def test_a_failure_is_named_by_its_status(tmp_path: Path, status: int, reason: str) -> None:
    [file] = write_series(tmp_path, 1)
    with Pacs() as pacs:
        pacs.behaviour, pacs.status = Behaviour.REFUSE, status
        assert _push(pacs, _members(tmp_path)) == (0, [(file, reason)], 1)


def test_what_the_peer_does_not_accept_is_named_and_the_rest_is_sent(tmp_path: Path) -> None:
    files = write_series(tmp_path, 2)
    members = _members(tmp_path)
    members[0] = (files[0], replace(members[0][1], sop_class_uid=SecondaryCaptureImageStorage))
    pacs = Pacs()
    pacs.accept_sop_classes = {MRImageStorage}
    with pacs:
        stored, failures, ticks = _push(pacs, members)
    assert (stored, ticks) == (1, 2)
    assert failures == [(files[0], "the peer does not accept Secondary Capture Image Storage")]


def test_after_an_abort_the_remaining_files_are_named(tmp_path: Path) -> None:
    files = write_series(tmp_path, 2)
    with Pacs() as pacs:
        pacs.behaviour = Behaviour.ABORT
        stored, failures, _ = _push(pacs, _members(tmp_path))
    assert stored == 0
    assert [path for path, _ in failures] == files
    assert {reason for _, reason in failures} <= {
        "the peer closed the association or did not answer in time",
        "the association ended before this object was sent",
    }


def test_an_unreachable_peer_is_a_fault_of_the_command(tmp_path: Path) -> None:
    write_series(tmp_path, 1)
    with pytest.raises(Retry, match="pacs does not answer at"):
        _push(Pacs(), _members(tmp_path))


def test_an_association_has_no_more_contexts_than_dicom_allows() -> None:
    members = [(Path(f"{n}.dcm"), new_instance(n, sop_class_uid=f"1.2.{n // 2}")) for n in range(400)]
    batches = list(_batches(members))
    assert [member for batch in batches for member in batch] == members
    assert [len({new.sop_class_uid for _, new in batch}) for batch in batches] == [128, 72]
    assert list(_batches([])) == []
