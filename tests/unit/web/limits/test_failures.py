from __future__ import annotations

import pytest

from worker.web.limits import failures
from worker.web.limits.failures import Failures


def test_failures_are_counted_by_key_up_to_the_limit() -> None:
    counts = Failures(3)
    assert [counts.add("a") for _ in range(6)] == [1, 2, 3, 4, 4, 4]
    assert counts.add("b") == 1


def test_a_failure_counts_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("worker.web.limits.failures.time.monotonic", lambda: now[0])
    failures = Failures(3)
    assert [failures.add("a") for _ in range(3)] == [1, 2, 3]
    now[0] += 61
    assert failures.add("a") == 1


def test_memory_is_bounded() -> None:
    counts = Failures(3)
    for number in range(failures._REMEMBERED + 100):
        counts.add(number)
    assert len(counts._times) == failures._REMEMBERED
