"""A process beats while every part of it keeps its promise."""

from __future__ import annotations

import math
import os
import threading

import pytest

from tests.testbed.waiting import wait_until
from worker.service.pulse import PULSE, Pulse


def test_a_part_that_is_late_ends_the_beats_of_all() -> None:
    now = [0.0]
    pulse = Pulse(lambda: now[0])
    first, second = pulse.part("first"), pulse.part("second")
    assert pulse.is_steady()
    first(10)
    second(math.inf)
    now[0] = 10.0
    assert pulse.is_steady()
    now[0] = 10.1
    assert not pulse.is_steady()
    first(1)
    assert pulse.is_steady()


def test_the_supervisor_hears_the_beats_and_a_grandchild_does_not_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    heard, told = os.pipe()
    monkeypatch.setenv(PULSE, str(told))
    done = threading.Event()
    Pulse().start_telling(done)
    try:
        assert wait_until(lambda: os.read(heard, 1), "a beat") == b"."
        assert PULSE not in os.environ
    finally:
        done.set()
        os.close(heard)
