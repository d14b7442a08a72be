"""The decoder processes of the web role: a few, started on demand, replaced when they die.

A request waits for a process a bounded time in a bounded queue, of which a caller gets at most half. A file that
ended a process is remembered by its hash and refused for some minutes: it cannot keep the processes busy dying.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from worker.config.sections import WebSection
from worker.decoding.answers import Answer, Budget, Busy, Cache
from worker.decoding.decoder import PROGRAM, Decoder, Died
from worker.decoding.tasks import Task
from worker.errors import NotAssessable
from worker.logs import get_log

WAITING = 16  # requests, beyond those that are being answered; each holds a thread of the web server
_WAIT_SECONDS = 20.0
_REMEMBERED_SECONDS = 600.0
_REMEMBERED_FILES = 1000
_TASKS_OF_A_PROCESS = 1000  # then it is replaced: libraries in C leak
_DIED = "decoder-died"


class FileKilledDecoder(NotAssessable):
    """Decoding the file ends the process that tries it."""

    def __init__(self) -> None:
        super().__init__(
            _DIED,
            "Decoding this file ended its process or exceeded the time; it is not tried again for some minutes.",
        )


class DecoderPool:
    """Runs tasks in decoder processes, for every thread of the web role."""

    def __init__(self, web: WebSection, folder: Path, program: str = PROGRAM) -> None:
        """`folder`: where answers too large for memory are held; nothing there outlives the process."""
        self._program = program
        self._web = web
        self._folder = folder
        self._idle: list[Decoder] = []
        self._busy: set[Decoder] = set()
        self._callers: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._killers: OrderedDict[str, tuple[int, float]] = OrderedDict()  # SHA-256 → size, until when
        self._budget = Budget()
        self._cache = Cache()
        self._closed = False
        self.deaths: Counter[str] = Counter()  # by cause

    def picture(self, task: Task, caller: str) -> bytes:
        """The answer of a task that makes one small thing, from the cache where it is there. Raises as `answer`."""
        key = _key(task)
        picture = self._cache.get(key)
        if picture is None:
            answer = self.answer(task, caller)
            picture = answer.content()
            answer.close()
            self._cache.add(key, picture)
        return picture

    def answer(self, task: Task, caller: str) -> Answer:
        """Raises NotAssessable, of that FileKilledDecoder; OSError for a file that cannot be read; Busy."""
        if any(self.is_killer(file) for file in task.files):
            raise FileKilledDecoder
        with self._place(caller):
            for last_try in (False, True):
                decoder = self._take()
                try:
                    return decoder.run(task, lambda: Answer(self._budget, self._folder))
                except Died as death:
                    if death.place is None and not last_try:
                        continue  # it died between two tasks
                    self._remember(task, death)
                    raise FileKilledDecoder from None
                finally:
                    self._give_back(decoder)
        raise FileKilledDecoder

    def is_killer(self, file: Path) -> bool:
        """Whether these bytes ended a decoder process not long ago."""
        with self._changed:
            now = time.monotonic()
            while self._killers and next(iter(self._killers.values()))[1] < now:
                self._killers.popitem(last=False)
            sizes = {size for size, _ in self._killers.values()}
        if not sizes or file.stat().st_size not in sizes:
            return False
        return _digest(file) in self._killers

    @property
    def pids(self) -> list[int]:
        """Of the processes that run."""
        with self._changed:
            return [decoder.pid for decoder in (*self._idle, *self._busy) if decoder.runs]

    def close(self) -> None:
        """End all processes."""
        with self._changed:
            self._closed = True
            decoders = [*self._idle, *self._busy]
            self._idle.clear()
        for decoder in decoders:
            decoder.end()

    @contextmanager
    def _place(self, caller: str) -> Iterator[None]:
        """A place among the requests that wait or are answered."""
        most = self._web.decoder_processes + WAITING
        with self._changed:
            if self._callers.total() >= most or self._callers[caller] >= max(2, most // 2):
                raise Busy
            self._callers[caller] += 1
        try:
            yield
        finally:
            with self._changed:
                self._callers[caller] -= 1
                if not self._callers[caller]:
                    del self._callers[caller]

    def _take(self) -> Decoder:
        deadline = time.monotonic() + _WAIT_SECONDS
        with self._changed:
            while not self._closed:
                while self._idle:
                    decoder = self._idle.pop()
                    if decoder.runs:
                        self._busy.add(decoder)
                        return decoder
                    decoder.end()
                if len(self._busy) < self._web.decoder_processes:
                    decoder = Decoder(self._web.decoder_seconds, self._web.decoder_memory_bytes, self._program)
                    self._busy.add(decoder)
                    return decoder
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
        raise Busy

    def _give_back(self, decoder: Decoder) -> None:
        with self._changed:
            self._busy.discard(decoder)
            usable = decoder.runs and decoder.tasks < _TASKS_OF_A_PROCESS and not self._closed
            if usable:
                self._idle.append(decoder)
            self._changed.notify()
        if not usable:
            decoder.end()

    def _remember(self, task: Task, death: Died) -> None:
        file = task.files[death.place or 0]
        digest, size = _digest(file), file.stat().st_size
        get_log().warning("decoder died", cause=death.cause, operation=task.operation, file_sha256=digest[:16])
        with self._changed:
            self.deaths[death.cause] += 1
            self._killers[digest] = (size, time.monotonic() + _REMEMBERED_SECONDS)
            self._killers.move_to_end(digest)
            if len(self._killers) > _REMEMBERED_FILES:
                self._killers.popitem(last=False)


def _key(task: Task) -> Hashable:
    """Raises OSError where a file is missing."""
    return task.operation, _state(task.files), json.dumps(task.arguments, sort_keys=True)


def _state(files: Sequence[Path]) -> Hashable:
    states = [(file, file.stat()) for file in files]
    return tuple((str(file), state.st_mtime_ns, state.st_size, state.st_ino) for file, state in states)


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
