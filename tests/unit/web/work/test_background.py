"""Work in threads: how many run, what is remembered, how it fails."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import structlog

from tests.testbed.instances import NOON
from tests.testbed.waiting import wait_until
from worker.errors import Retry
from worker.web.work.background import Background, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Dig(Work):
    place: str
    depth: int = 0


def dig(place: str = "here") -> Dig:
    return Dig(place=place, by="ada", started_at=NOON)


def _ended(digs: Background[Dig], number: int) -> Dig:
    return wait_until(
        lambda: next((one for one in digs.newest() if one.number == number and one.state != "running"), None), "the end"
    )


def test_no_more_run_at_once_than_may_and_none_that_another_excludes() -> None:
    digs, go = Background[Dig]("dig", 2), threading.Event()

    def wait(work: Dig) -> dict[str, Any]:
        digs.change(work.number, depth=1)
        go.wait(30)
        return {"state": "done"}

    def is_here(running: Dig) -> bool:
        return running.place == "here"

    assert digs.start(dig(), wait, is_here)
    assert not digs.start(dig(), wait, is_here)
    assert digs.start(dig("there"), wait)
    assert not digs.start(dig("elsewhere"), wait)
    wait_until(lambda: [one.depth for one in digs.newest()] == [1, 1], "both to begin")
    go.set()
    assert [(_ended(digs, number).state, _ended(digs, number).depth) for number in (1, 2)] == [("done", 1)] * 2
    assert [one.place for one in digs.newest()] == ["there", "here"]
    assert digs.start(dig(), wait, is_here)


def test_a_fault_of_ours_is_said_in_words_and_any_other_is_in_the_log() -> None:
    digs = Background[Dig]("dig", 2)

    def rock(_work: Dig) -> dict[str, Any]:
        raise Retry("rock", "there is a rock")

    def secret(_work: Dig) -> dict[str, Any]:
        raise RuntimeError("Doe^Jane")

    with structlog.testing.capture_logs() as logs:
        assert digs.start(dig(), rock)
        assert digs.start(dig(), secret)
        found = [_ended(digs, number) for number in (1, 2)]
    assert [(one.state, one.reason, one.detail) for one in found] == [
        ("failed", "rock", "there is a rock"),
        ("failed", "internal-fault", "an internal fault; the log says where"),
    ]
    assert [entry["event"] for entry in logs] == ["dig failed"]
    assert "Doe" not in str(logs)


def test_what_runs_is_remembered_however_much_ended_since() -> None:
    digs, go = Background[Dig]("dig", 2), threading.Event()

    def wait(_work: Dig) -> dict[str, Any]:
        go.wait(30)
        return {"state": "done"}

    def end(_work: Dig) -> dict[str, Any]:
        return {"state": "done"}

    assert digs.start(dig("long"), wait)
    for number in range(2, 62):
        assert digs.start(dig(f"short-{number}"), end)
        _ended(digs, number)
    known = digs.newest()
    assert len(known) == 51
    assert [known[0].number, known[-1].place, known[-1].state] == [61, "long", "running"]
    assert not digs.start(dig("long"), end, lambda running: running.place == "long")
    go.set()
    assert _ended(digs, 1).state == "done"
