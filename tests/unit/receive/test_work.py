"""What receiving an instance costs, counted: work that is the same on any machine, so that none creeps in unseen."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.pool import _ConnectionFairy

from tests.testbed.instances import NOON, mr_instance, received
from worker.config.settings import Settings
from worker.db import settling
from worker.db.engine import Database
from worker.receive.read_buffer import ReadBuffer
from worker.receive.settle import settle_series
from worker.storage.acceptance import instance_path, read_instance
from worker.storage.keeper import InstanceKeeper
from worker.storage.pending import PendingCommit


@pytest.fixture
def keeper(database: Database, tmp_path: Path) -> Iterator[InstanceKeeper]:
    """One that knows the series "a" already."""
    keeper = InstanceKeeper(database, tmp_path / "data", lambda: NOON, minimum_free_bytes=0)
    keeper.keep(received(mr_instance(1)))
    yield keeper
    keeper.close()


class _NotedCursor:
    """A cursor that notes the first word of each statement."""

    def __init__(self, cursor: Any, found: list[str]) -> None:
        self._cursor, self._found = cursor, found

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._cursor, name)
        if name not in ("execute", "executemany"):
            return attribute

        def call(statement: Any, *rest: Any, **named: Any) -> Any:
            word = str(statement).split()[0]
            if word != "BEGIN":  # SQLite's; PostgreSQL's driver says it by itself
                self._found.append(word)
            return attribute(statement, *rest, **named)

        return call


@pytest.fixture
def statements(database: Database, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Those that reach the driver, by SQLAlchemy or directly."""
    found: list[str] = []
    real = _ConnectionFairy.cursor
    monkeypatch.setattr(
        _ConnectionFairy,
        "cursor",
        lambda self, *arguments, **named: _NotedCursor(real(self, *arguments, **named), found),
    )
    return found


def test_an_instance_takes_two_fsyncs_and_two_statements(
    keeper: InstanceKeeper, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    keeper.keep(received(mr_instance(2)))
    assert sorted(synced) == ["file", "folder"]  # SQLite's own, of the log, comes with the commit
    assert statements == ["UPDATE", "INSERT"]


def test_a_look_for_quiet_series_takes_one_statement_while_all_are_arriving(
    keeper: InstanceKeeper, database: Database, statements: list[str]
) -> None:
    assert settle_series(database, Settings(), NOON) == 0
    assert statements == ["SELECT"]


def test_the_statement_that_finds_quiet_series_is_made_once(database: Database) -> None:
    made = settling._settling_query.cache_info().misses
    for second in range(5):
        with database.read() as session:
            moment = NOON + timedelta(seconds=second)
            settling.series_to_settle(session, moment, timedelta(1), timedelta(1), settling.CountPolicy())
    assert settling._settling_query.cache_info().misses <= made + 1


def test_a_batch_takes_no_more_statements_than_one(
    keeper: InstanceKeeper, statements: list[str], tmp_path: Path
) -> None:
    new = [read_instance(received(mr_instance(number)), instance_path) for number in range(2, 66)]
    keeper._commit_batch([PendingCommit(instance, "in its place", "in its place") for instance in new])
    assert statements == ["UPDATE", "INSERT"]


def test_the_bytes_that_came_are_the_bytes_that_are_written_without_another_copy(
    keeper: InstanceKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Any] = []
    real = os.write

    def write(descriptor: int, content: Any) -> int:
        written.append(content.obj)
        return real(descriptor, content)

    request = received(mr_instance(2))
    monkeypatch.setattr(os, "write", write)
    keeper.keep(request)
    assert len(written) == 1
    assert written[0] is request.encoded


def test_a_request_is_read_at_once_where_it_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    real = os.readv

    def readv(descriptor: int, buffers: Any) -> int:
        reads.append(real(descriptor, buffers))
        return reads[-1]

    monkeypatch.setattr(os, "readv", readv)
    sent = [b"\4\0" + len(value).to_bytes(4, "big") + value for value in (b"command", bytes(20_000), b"", b"rest")]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"".join(sent))
        inbox = ReadBuffer(1 << 20)
        assert [bytes(inbox.next_pdu(ours)) for _ in sent] == sent
    assert reads == [len(b"".join(sent))]
