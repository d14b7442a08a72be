"""What is in the output already: OUT/answers.jsonl, a line for each series that was answered."""

from __future__ import annotations

import fcntl
import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import TypeAdapter, ValidationError

from worker.errors import StartError
from worker.ops.classify_folder import OfflineAnswer

NAME = "answers.jsonl"


@dataclass(frozen=True, slots=True)
class Entry:
    """A series that was answered: `number` names its folder, `key` is all that its answer depends on."""

    key: str
    number: int
    answer: OfflineAnswer


@cache
def _adapter() -> TypeAdapter[Entry]:
    return TypeAdapter(Entry)


class Journal:
    """The series that are in the output, by their UIDs; of several lines of a series the last holds.

    A line is on disk before `add` returns. What a crash left of a line is removed. `parts` is a folder for the attempts
    of Dask workers, empty at first and removed at the end: close the cluster before. Raises StartError where another
    process writes to the same output.
    """

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._file = (out / NAME).open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise StartError("output-in-use", f"another `worker classify` writes to {out}") from None
        self.entries = self._read()
        self.parts = out.absolute() / ".parts"
        shutil.rmtree(self.parts, ignore_errors=True)
        self.parts.mkdir()

    def _read(self) -> dict[str, Entry]:
        entries, whole = dict[str, Entry](), 0
        self._file.seek(0)
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                entry = _adapter().validate_json(line)
            except ValidationError:
                continue  # of an earlier version, or damaged: the series is classified again
            entries[entry.answer.answer.series_instance_uid] = entry
        self._file.truncate(whole)
        return entries

    def add(self, entry: Entry) -> None:
        self._file.write(_adapter().dump_json(entry) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.entries[entry.answer.answer.series_instance_uid] = entry

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.parts, ignore_errors=True)
        self._file.close()
