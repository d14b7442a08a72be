from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from tests.testbed.instances import MODEL, NOON, encoded, mr_instance, received
from worker.audit.messages import AuditEvent
from worker.db.engine import Database
from worker.db.instances import file_fault_counts, file_of
from worker.db.jobs import claim_job, end_job
from worker.db.models import model_row
from worker.db.series import lock_open_series, queue_series
from worker.db.tables import ConflictRow, InstanceRow, JobRow, JobState, SeriesRow
from worker.dicom import standard
from worker.errors import RefusedInstance
from worker.storage import acceptance
from worker.storage import keeper as instances
from worker.storage.acceptance import instance_path, read_instance
from worker.storage.integrity import Integrity
from worker.storage.keeper import InstanceKeeper
from worker.storage.pending import StoreOutcome


@pytest.fixture
def keeper(database: Database, tmp_path: Path) -> Iterator[InstanceKeeper]:
    keeper = InstanceKeeper(database, tmp_path / "data", lambda: NOON, minimum_free_bytes=0)
    yield keeper
    keeper.close()


def _rows(database: Database) -> list[InstanceRow]:
    with database.read() as session:
        return list(session.scalars(select(InstanceRow)))


def _files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


def test_bytes_are_kept_as_sent(database: Database, keeper: InstanceKeeper, tmp_path: Path) -> None:
    ds = mr_instance()
    assert keeper.keep(received(ds)) is StoreOutcome.STORED
    [row] = _rows(database)
    assert (tmp_path / "data" / row.path).read_bytes() == encoded(ds)
    assert _files(tmp_path) == [tmp_path / "data" / row.path]


def test_repeated_instance_changes_nothing(database: Database, keeper: InstanceKeeper, tmp_path: Path) -> None:
    keeper.keep(received(mr_instance()))
    before = _files(tmp_path)
    assert keeper.keep(received(mr_instance())) is StoreOutcome.REPEATED
    assert _files(tmp_path) == before
    assert len(_rows(database)) == 1


def test_the_first_of_two_contents_stays_and_the_other_is_kept_aside_once(
    database: Database, keeper: InstanceKeeper, tmp_path: Path
) -> None:
    other = mr_instance(PixelData=bytes(512))
    keeper.keep(received(mr_instance()))
    assert [keeper.keep(received(other)) for _ in range(2)] == [StoreOutcome.CONFLICTING] * 2
    [row] = _rows(database)
    assert (tmp_path / "data" / row.path).read_bytes() == encoded(mr_instance())
    with database.read() as session:
        [conflict] = session.scalars(select(ConflictRow))
    assert conflict.instance_id == row.id
    assert (tmp_path / "data" / conflict.path).read_bytes() == encoded(other)
    assert len(_files(tmp_path)) == 2


def test_many_at_once_are_each_kept_once(database: Database, keeper: InstanceKeeper) -> None:
    many = [received(mr_instance(number)) for number in range(1, 21)] * 2
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(keeper.keep, many))
    assert sorted(outcomes) == [StoreOutcome.REPEATED] * 20 + [StoreOutcome.STORED] * 20
    assert len(_rows(database)) == 20
    with database.read() as session:
        assert len(session.scalars(select(SeriesRow)).all()) == 1


@pytest.mark.parametrize("cut", [140, 400])
def test_a_dataset_that_does_not_parse_is_refused_and_leaves_no_file(
    keeper: InstanceKeeper, tmp_path: Path, cut: int
) -> None:
    request = received(mr_instance())
    broken = acceptance.StoreRequest(
        request.affected_sop_class_uid,
        request.affected_sop_instance_uid,
        request.transfer_syntax_uid,
        request.encoded[:cut],
        None,
    )
    with pytest.raises(RefusedInstance) as refused:
        keeper.keep(broken)
    assert refused.value.status in (standard.CANNOT_UNDERSTAND, standard.DATASET_MISMATCH)
    assert _files(tmp_path) == []


def test_no_space_is_0xa700_and_leaves_no_file(database: Database, tmp_path: Path) -> None:
    keeper = InstanceKeeper(database, tmp_path / "data", lambda: NOON, minimum_free_bytes=1 << 60)
    with pytest.raises(RefusedInstance) as refused:
        keeper.keep(received(mr_instance()))
    keeper.close()
    assert refused.value.status == standard.OUT_OF_RESOURCES
    assert _files(tmp_path) == []
    assert _rows(database) == []


def test_space_that_returns_is_used_by_the_same_receiver(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = InstanceKeeper(database, tmp_path / "data", lambda: NOON, minimum_free_bytes=10 << 20)
    usage = shutil.disk_usage(tmp_path)
    for free, kept in ((1 << 20, False), (10 << 20, False), (11 << 20, True)):
        monkeypatch.setattr(instances.shutil, "disk_usage", lambda _path, free=free: usage._replace(free=free))
        if kept:
            assert keeper.keep(received(mr_instance())) == StoreOutcome.STORED
        else:
            with pytest.raises(RefusedInstance) as refused:
                keeper.keep(received(mr_instance()))
            assert refused.value.status == standard.OUT_OF_RESOURCES
            assert _files(tmp_path) == []
    keeper.close()
    assert len(_files(tmp_path)) == len(_rows(database)) == 1


@pytest.mark.parametrize("removed", ["data", "data/instances"])
def test_data_folder_that_was_removed_is_a_resource_that_is_out_and_is_not_made_anew(
    keeper: InstanceKeeper, database: Database, tmp_path: Path, removed: str
) -> None:
    assert keeper.keep(received(mr_instance(1))) == StoreOutcome.STORED
    shutil.rmtree(tmp_path / removed)
    with pytest.raises(RefusedInstance) as refused:
        keeper.keep(received(mr_instance(2)))
    assert (refused.value.status, refused.value.reason) == (standard.OUT_OF_RESOURCES, "storage-fault")
    assert not (tmp_path / removed).exists()
    assert len(_rows(database)) == 1


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENOSPC])
def test_whatever_the_disk_says_the_peer_may_try_again(
    keeper: InstanceKeeper, database: Database, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(number, "a disk in trouble")

    monkeypatch.setattr(instances.os, "fsync", fail)
    with pytest.raises(RefusedInstance) as refused:
        keeper.keep(received(mr_instance()))
    assert refused.value.status == standard.OUT_OF_RESOURCES
    assert _rows(database) == []


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """What a receiver that was killed while it wrote left in the place of the instance."""
    new = read_instance(received(mr_instance()), instance_path)
    half = tmp_path / "data" / new.path
    half.parent.mkdir(parents=True)
    half.write_bytes(received(mr_instance()).encoded[:1000])
    return half


def test_what_a_crash_left_in_its_place_is_replaced(
    database: Database, keeper: InstanceKeeper, tmp_path: Path, half: Path
) -> None:
    assert keeper.keep(received(mr_instance())) is StoreOutcome.STORED
    assert half.read_bytes() == encoded(mr_instance())
    assert _files(tmp_path) == [half]
    assert len(_rows(database)) == 1


def test_a_file_that_vanishes_before_its_commit_is_not_acknowledged(
    database: Database, keeper: InstanceKeeper, tmp_path: Path, half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = instances.os.fsync

    def lost(descriptor: int) -> None:
        real(descriptor)
        for path in (tmp_path / "data" / "instances" / "incoming").iterdir():
            path.unlink()

    monkeypatch.setattr(instances.os, "fsync", lost)
    with pytest.raises(RefusedInstance):
        keeper.keep(received(mr_instance()))
    assert _rows(database) == []
    assert half.stat().st_size == 1000


def test_a_write_that_fails_half_way_leaves_no_file(
    database: Database, keeper: InstanceKeeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(instances.os, "fsync", full)
    with pytest.raises(RefusedInstance) as refused:
        keeper.keep(received(mr_instance()))
    assert refused.value.status == standard.OUT_OF_RESOURCES
    assert _files(tmp_path) == []
    assert _rows(database) == []


def test_answer_comes_only_after_file_and_row_are_durable(
    database: Database, keeper: InstanceKeeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    real_fsync, real_add, real_arrive = instances.os.fsync, instances.add_instances, keeper._arrivals.add

    def fsync(descriptor: int) -> None:
        real_fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def require_synced(new: Any, above: int) -> None:
        # Before the row: the file, the folder that holds its name, and the folders that hold that folder's.
        place = tmp_path / "data" / new[0].path
        assert {path.stat().st_ino for path in (place, *list(place.parents)[:above])} <= synced

    def add(session: Any, new: Any, now: Any) -> None:
        require_synced(new, 3)
        real_add(session, new, now)

    added: list[bool] = []

    def arrive(new: Any, now: Any) -> bool:
        require_synced(new, 1)
        added.append(real_arrive(new, now))
        return added[-1]

    monkeypatch.setattr(instances.os, "fsync", fsync)
    monkeypatch.setattr(instances, "add_instances", add)
    monkeypatch.setattr(keeper._arrivals, "add", arrive)
    for number in (1, 2):
        assert keeper.keep(received(mr_instance(number))) is StoreOutcome.STORED
        synced.clear()
    assert added == [False, True]
    assert len(_rows(database)) == 2


def test_one_fault_in_a_batch_harms_one_instance(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = InstanceKeeper(database, tmp_path / "data", lambda: NOON, minimum_free_bytes=0)
    batches = _hold_the_first_batch(keeper, 6)
    real, add_known = instances.add_instances, keeper._arrivals.add
    poison = received(mr_instance(3))

    def refuse(new: Any) -> None:
        if poison.affected_sop_instance_uid in [instance.sop_instance_uid for instance in new]:
            raise RuntimeError("poison")

    def add(session: Any, new: Any, now: Any) -> None:
        real(session, new, now)
        refuse(new)

    def add_by_driver(new: Any, now: Any) -> bool:
        refuse(new)
        return add_known(new, now)

    monkeypatch.setattr(instances, "add_instances", add)
    monkeypatch.setattr(keeper._arrivals, "add", add_by_driver)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(keeper.keep, received(mr_instance(number))) for number in range(1, 7)]
        faults = [future.exception() for future in futures]
    keeper.close()
    assert [fault is not None for fault in faults] == [False, False, True, False, False, False]
    assert len(_rows(database)) == 5
    assert max(batches) > 1


def _hold_the_first_batch(keeper: InstanceKeeper, until: int) -> list[int]:
    """The first batch is taken when so many wait; the sizes of the batches."""
    sizes: list[int] = []
    real = keeper._next_batch

    def next_batch() -> list[Any]:
        while not sizes and len(keeper._pending) < until:
            threading.Event().wait(0.01)
        batch = real()
        sizes.append(len(batch))
        return batch

    keeper._next_batch = next_batch  # type: ignore[method-assign]
    return sizes


# --- an instance that is sent again, whose stored file is not what was received -----------------------------------


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-10] ^= 0xFF
    path.write_bytes(content)


RUIN = {
    "a byte changed": _flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:600]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
    "gone with its folder": lambda path: shutil.rmtree(path.parent),
}


@pytest.mark.parametrize("ruin", RUIN.values(), ids=RUIN.keys())
def test_a_repetition_replaces_what_the_disk_has_ruined(
    database: Database, tmp_path: Path, ruin: Callable[[Path], Any]
) -> None:
    audited: list[AuditEvent] = []
    keeper = InstanceKeeper(database, tmp_path / "data", lambda: NOON, 0, record=audited.append)
    keeper.keep(received(mr_instance()))
    [row] = _rows(database)
    path = tmp_path / "data" / row.path
    ruin(path)
    assert keeper.keep(received(mr_instance())) is StoreOutcome.REPEATED
    assert path.read_bytes() == encoded(mr_instance())
    assert _files(tmp_path) == [path]
    [event] = audited
    assert "replaced" in (event.description or "")
    assert keeper.keep(received(mr_instance())) is StoreOutcome.REPEATED
    keeper.close()
    assert len(audited) == 1


def test_a_repetition_resumes_the_job_that_its_file_had_parked(database: Database, tmp_path: Path) -> None:
    keeper = InstanceKeeper(database, tmp_path / "data", lambda: NOON, 0)
    keeper.keep(received(mr_instance()))
    [row] = _rows(database)
    with database.write() as session:
        series = lock_open_series(session, row.series_id, NOON)
        assert series is not None
        job = queue_series(session, series, model_row(session, MODEL, NOON).id, NOON)
        assert job is not None
        assert claim_job(session, "me", job.model_id, NOON, timedelta(seconds=30)) is not None
        end_job(session, job.id, "me", JobState.PARKED, NOON, reason="file-damaged")
    _flip(tmp_path / "data" / row.path)
    Integrity(database, tmp_path / "data", lambda: NOON).check([file_of(row)])
    keeper.keep(received(mr_instance()))
    keeper.close()
    with database.read() as session:
        assert session.scalars(select(JobRow.state)).one() == JobState.PENDING
        assert sum(file_fault_counts(session).values()) == 0


def test_many_that_send_the_same_at_once_replace_nothing(database: Database, tmp_path: Path) -> None:
    audited: list[AuditEvent] = []
    keeper = InstanceKeeper(database, tmp_path / "data", lambda: NOON, 0, record=audited.append)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(keeper.keep, [received(mr_instance(number)) for number in range(1, 6)] * 16))
    keeper.close()
    assert audited == []
    assert len(_files(tmp_path)) == 5


def test_a_conflict_that_the_disk_has_ruined_is_replaced_by_its_repetition(
    database: Database, keeper: InstanceKeeper, tmp_path: Path
) -> None:
    other = mr_instance(PixelData=bytes(512))
    keeper.keep(received(mr_instance()))
    keeper.keep(received(other))
    [conflict] = (tmp_path / "data" / "conflicts").rglob("*.dcm")
    _flip(conflict)
    keeper.keep(received(other))
    assert conflict.read_bytes() == encoded(other)


# --- whatever is raised, every waiting thread gets an answer -------------------------------------------------------


class _Panic(BaseException):
    """What no `except Exception` catches."""


@pytest.mark.parametrize("fault", [RuntimeError("fault"), MemoryError(), _Panic(), SystemExit(1)])
@pytest.mark.parametrize("step", ["_next_batch", "_commit_batch", "_commit_new", "_commit", "_clock", "log"])
def test_every_thread_is_answered_whatever_a_commit_raises(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, fault: BaseException
) -> None:
    if database.is_shared:
        pytest.skip("the same code, and a server takes its time")
    keeper = InstanceKeeper(database, tmp_path / "data", lambda: NOON, minimum_free_bytes=0)
    keeper.keep(received(mr_instance(99)))
    failing = [True]

    def fail_first(*_arguments: Any) -> Any:
        if failing[0]:
            raise fault
        return real(*_arguments)

    if step == "log":
        real: Any = instances.get_log
        monkeypatch.setattr(keeper, "_commit_new", lambda _batch: 1 / 0)
        monkeypatch.setattr(instances, "get_log", fail_first)
    else:
        real = getattr(keeper, step)
        monkeypatch.setattr(keeper, step, fail_first)
        if step == "_commit":
            monkeypatch.setattr(keeper, "_commit_new", lambda _batch: [])
    answers: list[object] = []

    def send(number: int) -> None:
        try:
            answers.append(keeper.keep(received(mr_instance(number))))
        except BaseException as raised:
            answers.append(raised)

    threads = [threading.Thread(target=send, args=(number,), daemon=True) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert len(answers) == 12
    assert not any(isinstance(answer, StoreOutcome) for answer in answers)
    failing[0] = False
    monkeypatch.undo()
    assert keeper.keep(received(mr_instance(50))) is StoreOutcome.STORED
    keeper.close()


@pytest.mark.parametrize("message", ["database or disk is full", "disk I/O error", "unable to open database file"])
def test_a_full_disk_under_the_database_is_0xa700(
    database: Database, keeper: InstanceKeeper, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    cause = sqlite3.OperationalError(message)
    if message == "database or disk is full":
        cause.sqlite_errorname = "SQLITE_FULL"
    else:  # SQLite's other names for the same, told by the disk
        usage = shutil.disk_usage("/")
        sizes = iter([usage.free])
        monkeypatch.setattr(instances.shutil, "disk_usage", lambda _path: usage._replace(free=next(sizes, 4096)))

    def full(*_arguments: Any) -> None:
        raise OperationalError("INSERT", {}, cause)

    monkeypatch.setattr(instances, "add_instances", full)
    with pytest.raises(RefusedInstance) as refused:
        keeper.keep(received(mr_instance()))
    assert (refused.value.status, refused.value.reason) == (standard.OUT_OF_RESOURCES, "no-space")
