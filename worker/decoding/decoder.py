"""A decoder process as the web process holds it: ended when it exceeds its time or breaks the wire."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from worker.decoding.answers import Answer
from worker.decoding.tasks import Task
from worker.decoding.wire import HEAD, PIECE, Kind
from worker.errors import NotAssessable

PROGRAM = "worker.decoding.process"
_START_SECONDS = 30.0  # of the process, on a machine that has other work
_GRACE_SECONDS = 2.0  # beyond the time that the kernel allows the process
_LONGEST_NOTE = 1 << 12


class Died(Exception):
    """The process ended, or had to be ended. `place`: the file of the task that it was decoding; None before any."""

    def __init__(self, cause: str, place: int | None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.place = place


class Decoder:
    """One process. Use it from one thread at a time."""

    def __init__(self, seconds: float, memory_bytes: int, module: str = PROGRAM) -> None:
        self._seconds = seconds
        command = [sys.executable, "-m", module, str(seconds), str(memory_bytes)]
        self._process = subprocess.Popen(
            command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.tasks = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def run(self, task: Task, new_answer: Callable[[], Answer]) -> Answer:
        """The answer. Raises NotAssessable and OSError as the operation did; Died; Busy."""
        self.tasks += 1
        reader = _Reader(self._process, time.monotonic() + self._seconds + _GRACE_SECONDS + _START_SECONDS)
        answer = new_answer()
        complete = False
        try:
            self._send(task)
            while True:
                kind, length = reader.head()
                if kind == Kind.PART:
                    answer.begin_part(length)
                    reader.copy(length, answer.write)
                    continue
                note = json.loads(reader.note(length) or b"null")
                if kind == Kind.OPENING:
                    reader.place = range(len(task.files))[int(note)]
                    reader.deadline = time.monotonic() + self._seconds + _GRACE_SECONDS
                    continue
                complete = True
                if kind == Kind.REFUSED:
                    raise NotAssessable(str(note[0]), str(note[1]))
                if kind == Kind.DISK:
                    raise OSError(int(note), os.strerror(int(note)))
                return answer
        except (ValueError, IndexError, TypeError, KeyError):
            raise Died("broken wire", reader.place) from None
        except BrokenPipeError:
            if complete:
                raise
            raise Died(reader.cause(), None) from None
        finally:
            if not complete:
                self.end()

    def _send(self, task: Task) -> None:
        files = [str(file) for file in task.files]
        request = {"operation": task.operation, "files": files, "arguments": task.arguments}
        content = memoryview(json.dumps(request).encode() + b"\n")
        stream = self._process.stdin
        while content and stream is not None:
            content = content[stream.write(content) :]

    def end(self) -> None:
        """End the process at once."""
        with suppress(OSError):
            self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        self._process.wait()


class _Reader:
    """Reads the messages of a process until a deadline."""

    def __init__(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        if process.stdout is None:
            raise ValueError("the process has no pipe")
        self._process = process
        self._fd = process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self.deadline = deadline
        self.place: int | None = None

    def head(self) -> tuple[Kind, int]:
        kind, length = HEAD.unpack(self._exactly(HEAD.size))
        return Kind(kind), length

    def note(self, length: int) -> bytes:
        if length > _LONGEST_NOTE:
            raise ValueError("a note is too long")
        return self._exactly(length)

    def copy(self, length: int, write: Callable[[bytes], None]) -> None:
        while length:
            piece = self._some(min(length, PIECE))
            length -= len(piece)
            write(piece)

    def cause(self) -> str:
        """Why the process ended, in stable words."""
        try:
            status = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return "silent"
        return f"signal {-status}" if status < 0 else f"exit {status}"

    def _exactly(self, length: int) -> bytes:
        pieces = bytearray()
        self.copy(length, pieces.extend)
        return bytes(pieces)

    def _some(self, most: int) -> bytes:
        left = self.deadline - time.monotonic()
        if left <= 0 or not self._poll.poll(left * 1000):
            raise Died("time", self.place)
        piece = os.read(self._fd, most)
        if not piece:
            raise Died(self.cause(), self.place)
        return piece
