"""The chain of records: whatever is done to its files is found, and where."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.audit.trail import BrokenTrail, Trail, TrailHead, hosts_in

LINES = 12
few = settings(deadline=None, max_examples=40)


def _trail(folder: Path, maximum_bytes: int = 500) -> Trail:
    return Trail(folder, "host.example", maximum_bytes)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrailHead]:
    """A trail of LINES records in several files, and its head."""
    folder = tmp_path_factory.mktemp("audit")
    head = _trail(folder).append([f"<AuditMessage>{number}" for number in range(3)])
    for number in range(3, LINES):
        head = _trail(folder).append([f"<AuditMessage>{number} {'x' * 100}"])
    return folder, head


def _tampered(
    written: tuple[Path, TrailHead], change: Callable[[list[bytes]], list[bytes]], anchor: TrailHead | None
) -> str:
    """What `verify` says after all lines were changed as given, each in the file it was in where it still exists."""
    folder = Path(tempfile.mkdtemp())
    try:
        shutil.copytree(written[0], folder, dirs_exist_ok=True)
        files = _trail(folder).files()
        places = [(file, line) for file in files for line in file.read_bytes().splitlines(keepends=True)]
        changed = change([line for _, line in places])
        for number, file in enumerate(files):
            mine = [index for index, (of, _) in enumerate(places) if of == file]
            last = number == len(files) - 1
            file.write_bytes(b"".join(changed[mine[0] : None if last else mine[-1] + 1]))
        with pytest.raises(BrokenTrail) as broken:
            _trail(folder).verify(anchor)
        return broken.value.detail
    finally:
        shutil.rmtree(folder)


def test_a_trail_is_intact_over_several_files(written: tuple[Path, TrailHead]) -> None:
    folder, head = written
    trail = _trail(folder)
    assert len(trail.files()) > 2
    assert trail.verify(head) == trail.verify(None) == head == TrailHead(LINES, head.sha256)
    assert [record.number for record in trail.records(after=7)] == [8, 9, 10, 11, 12]
    assert hosts_in(folder) == ["host.example"]


def test_only_the_worker_s_user_may_read_it(written: tuple[Path, TrailHead]) -> None:
    for file in written[0].iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


@few
@given(st.integers(0, LINES - 1), st.data())
def test_a_changed_byte_is_found_and_the_record_named(
    written: tuple[Path, TrailHead], index: int, data: st.DataObject
) -> None:
    def change(lines: list[bytes]) -> list[bytes]:
        line = bytearray(lines[index])
        at = data.draw(st.integers(0, len(line) - 2))
        line[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte not in (line[at], 0x0A)))
        return [*lines[:index], bytes(line), *lines[index + 1 :]]

    fault = _tampered(written, change, written[1])
    assert "edited" in fault or "stands" in fault or "missing" in fault


@few
@given(st.integers(0, LINES - 1))
def test_other_content_of_a_record_is_said_to_be_edited(written: tuple[Path, TrailHead], index: int) -> None:
    def change(lines: list[bytes]) -> list[bytes]:
        return [line.replace(b"Message>", b"Message >") if at == index else line for at, line in enumerate(lines)]

    fault = _tampered(written, change, written[1])
    assert f"record {index + 1} " in fault
    assert "edited" in fault


@few
@given(st.integers(0, LINES - 1), st.integers(1, LINES))
def test_removed_records_are_found_wherever_they_were(written: tuple[Path, TrailHead], first: int, count: int) -> None:
    removed = range(first, min(LINES, first + count))
    fault = _tampered(
        written, lambda lines: [b"" if at in removed else line for at, line in enumerate(lines)], written[1]
    )
    assert f"{first + 1}" in fault
    assert ("truncated" if removed[-1] == LINES - 1 else "removed") in fault


@few
@given(st.integers(0, LINES - 1), st.integers(0, LINES - 1))
def test_moved_records_are_found(written: tuple[Path, TrailHead], first: int, second: int) -> None:
    if first == second:
        return

    def change(lines: list[bytes]) -> list[bytes]:
        lines[first], lines[second] = lines[second], lines[first]
        return lines

    fault = _tampered(written, change, written[1])
    assert f"record {max(first, second) + 1} is in the position of record {min(first, second) + 1}" in fault
    assert "reordered" in fault


@few
@given(st.integers(0, LINES - 1), st.data())
def test_a_trail_that_is_cut_anywhere_is_missed_by_the_anchor(
    written: tuple[Path, TrailHead], kept: int, data: st.DataObject
) -> None:
    def change(lines: list[bytes]) -> list[bytes]:
        part = lines[kept][: data.draw(st.integers(0, len(lines[kept]) - 1))]
        return [*lines[:kept], part, *[b""] * (LINES - kept - 1)]

    assert f"records {kept + 1} to {LINES} are missing" in _tampered(written, change, written[1])


def test_a_repeated_record_is_found(written: tuple[Path, TrailHead]) -> None:
    fault = _tampered(written, lambda lines: [*lines[:-1], lines[-1] + lines[-1]], written[1])
    assert f"record {LINES} occurs a second time" in fault


def test_a_rewritten_trail_is_not_the_trail_that_the_database_knows(
    written: tuple[Path, TrailHead], tmp_path: Path
) -> None:
    forged = _trail(tmp_path)
    forged.append([f"<AuditMessage>{number}" for number in range(100, 100 + LINES + 5)])
    forged.verify(None)
    with pytest.raises(BrokenTrail, match="not the record that the database knows"):
        forged.verify(written[1])
    assert not forged.contains(written[1])


def test_the_trail_of_another_host_is_not_ours(written: tuple[Path, TrailHead], tmp_path: Path) -> None:
    for file in _trail(written[0]).files():
        shutil.copy(file, tmp_path / file.name.replace("host.example", "other"))
    with pytest.raises(BrokenTrail, match="not of the host other"):
        Trail(tmp_path, "other", 500).verify(None)


def test_archived_files_may_be_left_out_when_that_is_said(written: tuple[Path, TrailHead], tmp_path: Path) -> None:
    for file in _trail(written[0]).files()[1:]:
        shutil.copy(file, tmp_path)
    first = int(_trail(tmp_path).files()[0].stem.rpartition("-")[2])
    with pytest.raises(BrokenTrail, match="removed"):
        _trail(tmp_path).verify(written[1])
    assert _trail(tmp_path).verify(written[1], first) == written[1]


def test_half_a_record_of_a_process_that_died_is_written_over(tmp_path: Path) -> None:
    trail = _trail(tmp_path)
    trail.append(["<AuditMessage>1"])
    with trail.files()[0].open("ab") as stream:
        stream.write(b"2 abc")
    assert trail.verify(None).number == 1
    assert trail.append(["<AuditMessage>2"]).number == 2
    assert trail.verify(None).number == 2


def test_contains_looks_from_the_end_through_all_files(written: tuple[Path, TrailHead]) -> None:
    trail = _trail(written[0])
    heads = [TrailHead(record.number, record.sha256) for record in trail.records()]
    assert all(trail.contains(head) for head in heads)
    assert not trail.contains(TrailHead(5, heads[5].sha256))
    assert not trail.contains(TrailHead(LINES + 1, heads[5].sha256))


def test_a_full_disk_leaves_no_half_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trail = _trail(tmp_path)
    head = trail.append(["<AuditMessage>1"])
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if len(data) < 50:
            raise OSError(28, "No space left on device")
        return write(fd, data[:50])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        trail.append(["<AuditMessage>2"])
    monkeypatch.undo()
    assert trail.verify(head) == head
    assert trail.append(["<AuditMessage>2"]).number == 2


def _append_many(folder: Path, name: str) -> None:
    for number in range(50):
        _trail(folder, 5000).append([f"<AuditMessage>{name} {number}"])


def test_several_processes_append_to_one_chain(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_append_many, args=(tmp_path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert _trail(tmp_path, 5000).verify(None).number == 150


def test_a_process_that_keeps_the_lock_holds_up_nobody_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trail = _trail(tmp_path)
    trail.append(["<AuditMessage>1"])
    monkeypatch.setattr("worker.audit.trail._LOCK_SECONDS", 0.05)
    with trail.beside("lock").open("r+b") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            trail.append(["<AuditMessage>2"])
    assert trail.append(["<AuditMessage>2"]).number == 2


def test_the_newest_records_are_read_from_the_end_of_the_files(written: tuple[Path, TrailHead]) -> None:
    trail = _trail(written[0])
    assert len(trail.files()) > 2
    assert [record.number for record in trail.records_backwards()] == list(range(LINES, 0, -1))
    assert [record.number for record in trail.records_backwards(before=8)] == list(range(7, 0, -1))
    assert list(trail.records_backwards(before=1)) == []
    assert list(Trail(written[0], "nobody", 500).records_backwards()) == []
