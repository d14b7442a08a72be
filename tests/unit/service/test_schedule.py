from __future__ import annotations

import threading

import pytest

from tests.testbed.waiting import wait_until
from worker.service.schedule import Tick, start_ticks, tick_now


def test_a_slow_tick_delays_no_other_and_does_not_overlap_itself() -> None:
    release, runs = threading.Event(), {"slow": 0, "fast": 0}

    def slow() -> None:
        runs["slow"] += 1
        release.wait()

    def fast() -> None:
        runs["fast"] += 1

    ticks = start_ticks([Tick("slow", 0.01, slow), Tick("fast", 0.01, fast)])
    wait_until(lambda: runs["slow"] and runs["fast"] > 5, "the fast tick to run beside the slow tick")
    assert runs["slow"] == 1
    release.set()
    ticks.shutdown(wait=True)


def test_a_tick_that_fails_is_logged_by_name_without_the_text_and_runs_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = []

    def fail() -> None:
        runs.append(1)
        raise ValueError("CANARY^NAME")

    ticks = start_ticks([Tick("retention", 0.01, fail)])
    wait_until(lambda: len(runs) > 1, "the tick to run again")
    ticks.shutdown(wait=True)
    log = capsys.readouterr()
    assert "retention" in log.out + log.err
    assert "CANARY" not in log.out + log.err


def test_every_tick_can_be_run_at_once() -> None:
    ran = threading.Event()
    ticks = start_ticks([Tick("report", 3600, ran.set)])
    assert not ran.is_set()
    tick_now(ticks)
    wait_until(ran.is_set, "the tick to run")
    ticks.shutdown(wait=True)
