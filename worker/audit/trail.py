"""The audit trail's files: one chain of records a host, appended by all its processes, verified from end to end.

A record is a line `NUMBER PREVIOUS MESSAGE`: its number from 1, the SHA-256 of the line before it (of the host's name
for the first), the XML. A changed, missing, repeated or moved line breaks the chain there; what is cut off the end is
missed by the head that the database keeps (`worker.audit.recorder`). A file is named by the number of its first record
and is followed by the next when it is full; nothing is renamed, rewritten or deleted. Appending takes a lock on
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
    """The last record: its number (0 before the first) and the SHA-256 of its line."""

    number: int
    sha256: str


@dataclass(frozen=True, slots=True)
class TrailRecord:
    number: int
    previous: str
    message: str
    sha256: str


class BrokenTrail(WorkerError):
    """The trail is not what was written; `detail` says where."""


class Trail:
    """The chain of one host in a folder."""

    def __init__(self, folder: Path, host: str, maximum_bytes: int) -> None:
        self.host = self._name = file_name(host)
        self._folder = folder
        self._maximum = maximum_bytes
        self._start = TrailHead(0, hashlib.sha256(self.host.encode()).hexdigest())

    def append(self, messages: Sequence[str]) -> TrailHead:
        """All of them or none; the new head. Raises OSError. Not yet fsynced: see `sync`."""
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
        """What was appended is on disk afterwards; the head at that moment. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            file, head, _ = self._tail()
        if file is not None:
            fsync(file)
            fsync(self._folder)
        return head

    def records(self, after: int = 0) -> Iterator[TrailRecord]:
        """The records behind a number, in the order of the files; a line that is none is passed over (see `verify`)."""
        files = self.files()
        first = max((at for at, file in enumerate(files) if first_number(file) <= after + 1), default=0)
        for file in files[first:]:
            for line in _lines(file):
                record = _parse(line)
                if record is not None and record.number > after:
                    yield record

    def contains(self, head: TrailHead) -> bool:
        """Is this record in the trail, with this content? Looked for from the end, where it is soon found."""
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
        """The head of an intact trail that begins with record `first`. Raises BrokenTrail with the exact place.

        `anchor` is a head that was recorded elsewhere: a trail that does not hold it was cut or written anew. With
        `first` > 1 the records before were archived, and the one before it is taken on trust.
        """
        head = self._start if first == 1 else None
        before: TrailRecord | None = None
        for record, place in self._read():
            expected = head.number + 1 if head else first
            if record.number != expected:
                raise BrokenTrail("audit-order", self._explain(record.number, expected, place))
            if head is not None and record.previous != head.sha256:
                raise BrokenTrail("audit-edited", self._which_was_edited(before, record, anchor, place))
            head, before = TrailHead(record.number, record.sha256), record
            if anchor is not None and anchor.number == head.number and anchor != head:
                why = "edited, or the trail written anew up to it"
                raise BrokenTrail(
                    "audit-edited", f"{place}: record {head.number} is not the one that the database knows: {why}"
                )
        head = head or TrailHead(first - 1, "")
        if anchor is not None and head.number < anchor.number:
            missing = f"records {head.number + 1} to {anchor.number} are missing at the end"
            raise BrokenTrail("audit-truncated", f"{missing}: the trail was truncated")
        return head

    def beside(self, suffix: str) -> Path:
        """A file of the same host that is no part of the trail."""
        return self._folder / f"{self._name}.{suffix}"

    def files(self) -> list[Path]:
        """In the order of their records."""
        return sorted(self._folder.glob(f"{self._name}-{'[0-9]' * 12}.audit"))

    def _read(self) -> Iterator[tuple[TrailRecord, str]]:
        for file in self.files():
            for number, line in enumerate(_lines(file), 1):
                place = f"{file.name}, line {number}"
                record = _parse(line)
                if record is None:
                    raise BrokenTrail("audit-edited", f"{place} is not a record: it was edited")
                yield record, place

    def _explain(self, found: int, expected: int, place: str) -> str:
        with contextlib.suppress(BrokenTrail):
            if any(one.number == expected for one, _ in self._read()):
                return f"{place}: record {found} stands where {expected} belongs: records were reordered"
            if found < expected:
                return f"{place}: record {found} stands there once more: a record was repeated"
        missing = f"records {expected} to {found - 1} are" if found - 1 > expected else f"record {expected} is"
        return f"{place}: {missing} missing before it: removed"

    def _which_was_edited(
        self, before: TrailRecord | None, record: TrailRecord, anchor: TrailHead | None, place: str
    ) -> str:
        """The link between two records is wrong: the one whose hash something else confirms was not edited."""
        confirmed = anchor == TrailHead(record.number, record.sha256)
        with contextlib.suppress(BrokenTrail):
            following = next((one for one, _ in self._read() if one.number == record.number + 1), None)
            confirmed = confirmed or (following is not None and following.previous == record.sha256)
        if confirmed and before is None:
            return f"{place}: record {record.number} is the first and not of the host {self.host}"
        edited = record.number - 1 if confirmed else record.number
        return (
            f"{place}: record {edited} was edited: the link between {record.number - 1} and {record.number} is broken"
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self.beside("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            _lock(fd)
            yield
        finally:
            os.close(fd)  # gives the lock back

    def _tail(self) -> tuple[Path | None, TrailHead, int]:
        """The file to append to, the last record, and where the next begins: behind the last complete line."""
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
    """A host's name as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", host)[:100]


def first_number(file: Path) -> int:
    return int(file.stem.rpartition("-")[2])


def hosts_in(folder: Path) -> list[str]:
    """The names of the hosts that have files here, as `file_name` wrote them."""
    return sorted({file.stem.rpartition("-")[0] for file in folder.glob(f"*-{'[0-9]' * 12}.audit")})


def _lock(fd: int) -> None:
    """Raises BlockingIOError when another process, stopped at a bad moment perhaps, keeps the lock."""
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
    """Complete lines; what a process that died left half written at the end is none."""
    with file.open("rb") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                yield line[:-1]


def _last_line(file: Path) -> tuple[bytes | None, int]:
    """The last complete line and where it ends."""
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
            parts = (stream.read(length) + rest).split(b"\n")
            rest = parts[0]
            later = parts[1:]
            if at_end and later:
                later.pop()  # behind the last newline: nothing, or half a line
                at_end = False
            yield from reversed(later)
        if not at_end:
            yield rest


def _write_at(file: Path, end: int, data: bytes) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _MODE)
    try:
        if os.fstat(fd).st_size > end:  # half a line, of a process that died or a disk that was full
            os.ftruncate(fd, end)
        try:
            while data:
                data = data[os.write(fd, data) :]
        except OSError:
            os.ftruncate(fd, end)
            raise
    finally:
        os.close(fd)
