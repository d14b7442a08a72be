"""The files of the audit trail: a chain of records per host, appended to by all its processes, verified end to end.

A record is a line `NUMBER PREVIOUS MESSAGE`: its number from 1, the SHA-256 of the previous line (of the host's name
for the first), the XML. A changed, missing, repeated or moved line breaks the chain at that line; truncation is
detected by the head that the database stores (`worker.audit.recorder`). A file is named for the number of its first
record and is followed by another when it is full; nothing is renamed, rewritten or deleted. Appending takes a lock on
HOST.lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.errors import WorkerError
from worker.files import fsync

_MODE = 0o600  # a message names studies: only the worker's own user reads it
_LOCK_SECONDS = 5.0
_TAIL_BYTES = 1 << 16
_LINE = re.compile(rb"([1-9][0-9]{0,17}) ([0-9a-f]{64}) (<AuditMessage.*)")


@dataclass(frozen=True, slots=True)
class TrailHead:
    """The last record of a trail: its number (0 before the first) and the SHA-256 of its line."""

    number: int
    sha256: str


@dataclass(frozen=True, slots=True)
class TrailRecord:
    number: int
    previous: str
    message: str
    sha256: str


class BrokenTrail(WorkerError):
    """The trail was altered; `detail` says where."""


class Trail:
    """The chain of one host in a folder."""

    def __init__(self, folder: Path, host: str, maximum_bytes: int) -> None:
        self.host = self._name = file_name(host)
        self._folder = folder
        self._maximum = maximum_bytes
        self._start = TrailHead(0, hashlib.sha256(self.host.encode()).hexdigest())

    def append(self, messages: Sequence[str]) -> TrailHead:
        """Append all messages or none; the new head. Raises OSError. Not yet fsynced: see `sync`."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            file, head, end = self._tail()
            if file is None or end >= self._maximum:
                if file is not None:
                    fsync(file)
                file, end = self._folder / f"{self._name}-{head.number + 1:012}.audit", 0
            lines = []
            for message in messages:
                line = f"{head.number + 1} {head.sha256} {message}".encode()
                head = TrailHead(head.number + 1, hashlib.sha256(line).hexdigest())
                lines.append(line + b"\n")
            _write_at(file, end, b"".join(lines))
        return head

    def sync(self) -> TrailHead:
        """Fsync all appended records; the head at that moment. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            file, head, _ = self._tail()
        if file is not None:
            fsync(file)
            fsync(self._folder)
        return head

    def records(self, after: int = 0) -> Iterator[TrailRecord]:
        """The records after a number, in the order of the files; a line that is no record is skipped (see `verify`)."""
        files = self.files()
        first = max((at for at, file in enumerate(files) if first_number(file) <= after + 1), default=0)
        for file in files[first:]:
            for line in _lines(file):
                record = _parse(line)
                if record is not None and record.number > after:
                    yield record

    def records_backwards(self, before: int | None = None) -> Iterator[TrailRecord]:
        """The records before a number, the newest first; reads no more of the files than is asked for."""
        for file in reversed(self.files()):
            if before is not None and first_number(file) >= before:
                continue
            for line in _lines_backwards(file):
                record = _parse(line)
                if record is not None and (before is None or record.number < before):
                    yield record

    def contains(self, head: TrailHead) -> bool:
        """Whether this record is in the trail, with this content. Searched from the end, where it is found soonest."""
        if head == self._start:
            return True
        for file in reversed(self.files()):
            if first_number(file) > head.number:
                continue
            for line in _lines_backwards(file):
                record = _parse(line)
                if record is not None and record.number <= head.number:
                    return TrailHead(record.number, record.sha256) == head
            return False
        return False

    def verify(self, anchor: TrailHead | None, first: int = 1) -> TrailHead:
        """The head of an intact trail that begins with record `first`. Raises BrokenTrail with the exact position.

        `anchor` is a head that was recorded elsewhere: a trail without it was truncated or rewritten. With `first` > 1
        the earlier records were archived, and the record before `first` is trusted.
        """
        head = self._start if first == 1 else None
        before: TrailRecord | None = None
        for record, position in self._read():
            expected = head.number + 1 if head else first
            if record.number != expected:
                raise BrokenTrail("audit-order", self._explain(record.number, expected, position))
            if head is not None and record.previous != head.sha256:
                raise BrokenTrail("audit-edited", self._which_was_edited(before, record, anchor, position))
            head, before = TrailHead(record.number, record.sha256), record
            if anchor is not None and anchor.number == head.number and anchor != head:
                fault = f"record {head.number} is not the record that the database knows"
                raise BrokenTrail("audit-edited", f"{position}: {fault}: edited, or the trail was rewritten up to it")
        head = head or TrailHead(first - 1, "")
        if anchor is not None and head.number < anchor.number:
            missing = f"records {head.number + 1} to {anchor.number} are missing at the end"
            raise BrokenTrail("audit-truncated", f"{missing}: the trail was truncated")
        return head

    def beside(self, suffix: str) -> Path:
        """A file of the same host that is not part of the trail."""
        return self._folder / f"{self._name}.{suffix}"

    def files(self) -> list[Path]:
        """In the order of their records."""
        return sorted(self._folder.glob(f"{self._name}-{'[0-9]' * 12}.audit"))

    def _read(self) -> Iterator[tuple[TrailRecord, str]]:
        for file in self.files():
            for number, line in enumerate(_lines(file), 1):
                position = f"{file.name}, line {number}"
                record = _parse(line)
                if record is None:
                    raise BrokenTrail("audit-edited", f"{position} is not a record: it was edited")
                yield record, position

    def _explain(self, number: int, expected: int, position: str) -> str:
        """Why record `number` is at a position where another is expected."""
        with contextlib.suppress(BrokenTrail):
            if any(record.number == expected for record, _ in self._read()):
                return f"{position}: record {number} is in the position of record {expected}: records were reordered"
            if number < expected:
                return f"{position}: record {number} occurs a second time: a record was repeated"
        missing = f"records {expected} to {number - 1} are" if number - 1 > expected else f"record {expected} is"
        return f"{position}: {missing} missing before it: removed"

    def _which_was_edited(
        self, before: TrailRecord | None, record: TrailRecord, anchor: TrailHead | None, position: str
    ) -> str:
        """Of two records with a broken link, name the edited record: a hash that is confirmed elsewhere is genuine."""
        confirmed = anchor == TrailHead(record.number, record.sha256)
        with contextlib.suppress(BrokenTrail):
            following = next((later for later, _ in self._read() if later.number == record.number + 1), None)
            confirmed = confirmed or (following is not None and following.previous == record.sha256)
        if confirmed and before is None:
            return f"{position}: record {record.number} is the first and not of the host {self.host}"
        edited = record.number - 1 if confirmed else record.number
        link = f"{record.number - 1} and {record.number}"
        return f"{position}: record {edited} was edited: the link between {link} is broken"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self.beside("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            _lock(fd)
            yield
        finally:
            os.close(fd)  # releases the lock

    def _tail(self) -> tuple[Path | None, TrailHead, int]:
        """The file to append to, the last record, and the offset after the last complete line."""
        for file in reversed(self.files()):
            line, end = _last_line(file)
            if line is not None:
                record = _parse(line)
                number = record.number if record else first_number(file) + sum(1 for _ in _lines(file)) - 1
                return file, TrailHead(number, hashlib.sha256(line).hexdigest()), end
            if first_number(file) == 1:
                return file, self._start, 0
        return None, self._start, 0


def file_name(host: str) -> str:
    """A host's name as it appears in file names."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", host)[:100]


def first_number(file: Path) -> int:
    return int(file.stem.rpartition("-")[2])


def hosts_in(folder: Path) -> list[str]:
    """The hosts that have files in a folder, as `file_name` writes them."""
    return sorted({file.stem.rpartition("-")[0] for file in folder.glob(f"*-{'[0-9]' * 12}.audit")})


def _lock(fd: int) -> None:
    """Raises BlockingIOError when another process, perhaps a stopped process, holds the lock."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)


def _parse(line: bytes) -> TrailRecord | None:
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    try:
        message = match[3].decode()
    except UnicodeDecodeError:
        return None
    return TrailRecord(int(match[1]), match[2].decode(), message, hashlib.sha256(line).hexdigest())


def _lines(file: Path) -> Iterator[bytes]:
    """The complete lines of a file; a partial line at the end, of a process that died, is skipped."""
    with file.open("rb") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                yield line[:-1]


def _last_line(file: Path) -> tuple[bytes | None, int]:
    """The last complete line and the offset of its end."""
    with file.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        length = _TAIL_BYTES
        while True:
            start = max(0, size - length)
            stream.seek(start)
            tail = stream.read(size - start)
            end = tail.rfind(b"\n")
            begin = tail.rfind(b"\n", 0, end) if end > 0 else -1
            if end >= 0 and (begin >= 0 or start == 0):
                return tail[begin + 1 : end], start + end + 1
            if start == 0:
                return None, 0
            length *= 4


def _lines_backwards(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        position = stream.seek(0, os.SEEK_END)
        rest = b""
        at_end = True
        while position > 0:
            length = min(_TAIL_BYTES, position)
            position -= length
            stream.seek(position)
            rest, *later = (stream.read(length) + rest).split(b"\n")
            if at_end and later:
                later.pop()  # after the last newline: empty, or a partial line
                at_end = False
            yield from reversed(later)
        if not at_end:
            yield rest


def _write_at(file: Path, end: int, data: bytes) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _MODE)
    try:
        if os.fstat(fd).st_size > end:  # a partial line, of a process that died or a disk that was full
            os.ftruncate(fd, end)
        try:
            while data:
                data = data[os.write(fd, data) :]
        except OSError:
            os.ftruncate(fd, end)
            raise
    finally:
        os.close(fd)
