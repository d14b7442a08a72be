"""How long each stage of the work takes, counted in the memory of this process for `mri_worker_stage_seconds`.

The heartbeat adds the counts to those of all processes in the database (`worker.service.heartbeat`), as GET /metrics is
answered by another process, perhaps of another host. A process that is killed loses what it counted since its last
heartbeat.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple

# By kind of work. GET /metrics shows all of them, as 0 before they happen.
STAGES: Mapping[str, tuple[str, ...]] = {
    "instance": ("header", "write", "commit"),
    "series": ("claim", "verify", "read", "network", "answer", "report", "picture", "write", "commit"),
    "study": ("claim", "answer", "read", "report", "picture", "write", "commit"),
    "delivery": ("connect", "read", "send", "commit"),
}
BOUNDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 100_000)  # of the buckets, in ms
_SECONDS = [bound / 1000 for bound in BOUNDS]
LONGER = 0  # instead of a bound, of the bucket of what exceeds all bounds


class StageKey(NamedTuple):
    """A bucket of a stage's histogram: of times up to `bound` ms and above the bound before it."""

    work: str
    stage: str
    bound: int


class StageCount(NamedTuple):
    """How often a stage took a time within a bucket, and the sum of those times in seconds."""

    number: int = 0
    seconds: float = 0.0


class StageTimes:
    """Counts until `take`; any number of threads may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = _no_counts()

    def add(self, work: str, stage: str, seconds: float) -> None:
        """Count a stage that took so long. Raises KeyError for a stage that is not among STAGES."""
        index = bisect_left(_SECONDS, seconds)
        with self._lock:
            numbers, sums = self._counts[work, stage]
            numbers[index] += 1
            sums[index] += seconds

    def take(self) -> dict[StageKey, StageCount]:
        """The counts since the last call, which are forgotten here."""
        with self._lock:
            counts, self._counts = self._counts, _no_counts()
        return {
            StageKey(work, stage, bound): StageCount(number, seconds)
            for (work, stage), (numbers, sums) in counts.items()
            for bound, number, seconds in zip((*BOUNDS, LONGER), numbers, sums, strict=True)
            if number
        }

    def give_back(self, counts: Mapping[StageKey, StageCount]) -> None:
        """Count again what was taken and could not be written."""
        with self._lock:
            for key, count in counts.items():
                numbers, sums = self._counts[key.work, key.stage]
                index = (*BOUNDS, LONGER).index(key.bound)
                numbers[index] += count.number
                sums[index] += count.seconds


def _no_counts() -> dict[tuple[str, str], tuple[list[int], list[float]]]:
    """By work and stage, the numbers and the sums of each bucket: lists, which are changed in half a microsecond."""
    buckets = len(BOUNDS) + 1
    return {(work, stage): ([0] * buckets, [0.0] * buckets) for work, stages in STAGES.items() for stage in stages}


STAGE_TIMES = StageTimes()  # of this process


def timed(work: str, stage: str) -> _Timer:
    """`with timed("series", "read"):` counts how long the block takes, however it ends."""
    return _Timer(work, stage)


class _Timer:
    """A class, for a generator as context manager takes twice as long; each instance received has three of them."""

    __slots__ = ("_stage", "_started", "_work")

    def __init__(self, work: str, stage: str) -> None:
        self._work, self._stage = work, stage

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        STAGE_TIMES.add(self._work, self._stage, time.perf_counter() - self._started)
