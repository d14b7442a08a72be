from __future__ import annotations

from worker.web.limits import failures
from worker.web.limits.failures import Failures


def test_failures_are_counted_by_key_up_to_the_limit() -> None:
    counts = Failures(3)
    assert [counts.add("a") for _ in range(6)] == [1, 2, 3, 4, 4, 4]
    assert counts.add("b") == 1


def test_memory_is_bounded() -> None:
    counts = Failures(3)
    for number in range(failures._REMEMBERED + 100):
        counts.add(number)
    assert len(counts._times) == failures._REMEMBERED
