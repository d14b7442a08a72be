"""Whoever asks for a cluster is told why there is none, and what a death costs, whenever it comes.

tests/integration/test_bulk.py has clusters whose processes die; here they die between two lines.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest
from distributed import CancelledError, KilledWorker

from tests.testbed.dcmtk import free_port
from worker import cluster
from worker.cluster import Cluster, Lost, open_cluster
from worker.errors import StartError, WorkerError
from worker.imports import without


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "distributed"]:
        monkeypatch.delitem(sys.modules, name)
    with without("distributed"), pytest.raises(StartError, match=r"pip install 'brain-mri-worker\[bulk\]'"):
        open_cluster(1, None).__enter__()


def test_one_kind_of_cluster_is_asked_for() -> None:
    for workers, scheduler in ((None, None), (1, "tcp://127.0.0.1:8786")):
        with pytest.raises(StartError, match="not both"):
            open_cluster(workers, scheduler).__enter__()


@pytest.mark.parametrize("address", ["nonsense://host", "tcp://127.0.0.1:PORT"])
def test_a_scheduler_that_does_not_answer_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 1)
    address = address.replace("PORT", str(free_port()))
    with pytest.raises(StartError, match=f"no Dask scheduler can be reached at {address}"):
        open_cluster(None, address).__enter__()


class Ended:
    """A future whose task ended: `error`, "lost" where its worker died since, or the answer."""

    def __init__(self, key: str, answer: object, error: BaseException | str | None) -> None:
        self.key, self.answer, self.error = key, answer, error
        self.status = error if isinstance(error, str) else "error" if error else "finished"

    def add_done_callback(self, function: Callable[[Any], None]) -> None:
        function(self)

    def result(self) -> object:
        if isinstance(self.error, BaseException):
            raise self.error
        return self.answer


class Dying:
    """A client whose workers die as planned: for each task, how its attempts end. Records what is in hand at each."""

    def __init__(self, **plans: list[BaseException | str | None]) -> None:
        self.plans, self.started = plans, list[str]()

    def nthreads(self) -> dict[str, int]:
        return {"tcp://127.0.0.1:1": 1}

    def submit(self, function: Callable[[str], str], task: str, key: str, pure: bool) -> Ended:
        self.started.append(task)
        plan = self.plans.get(task, [])
        return Ended(key, function(task), plan.pop(0) if plan else None)


DIED = KilledWorker("key", None, 0)  # type: ignore[arg-type]


def answer(task: str) -> str:
    return f"answer {task}"


def test_a_task_whose_worker_died_runs_again_when_the_others_have_ended() -> None:
    client = Dying(b=[DIED, None], d=[DIED, DIED, DIED])
    answers = dict(Cluster(client, is_local=True).run(answer, "abcde", attempts=2))
    assert client.started == ["a", "b", "c", "d", "e", "b", "d"]
    lost = answers.pop("d")
    assert lost == Lost("process-died", "the process that worked on it died, 2 times in a row")
    assert answers == {task: f"answer {task}" for task in "abce"}


def test_an_answer_that_is_lost_with_its_worker_is_asked_for_again() -> None:
    client = Dying(a=["lost", "lost", None])
    answers = list(Cluster(client, is_local=True).run(answer, "ab", attempts=1))
    assert sorted(answers) == [("a", "answer a"), ("b", "answer b")]


def test_a_fault_on_a_worker_is_an_answer_and_a_lost_scheduler_is_not() -> None:
    client = Dying(a=[ValueError("CANARY")], c=[CancelledError()])
    answers = Cluster(client, is_local=True).run(answer, "abc", attempts=1)
    assert next(answers) == ("a", Lost("dask-fault", "ValueError on a Dask worker"))
    assert next(answers) == ("b", "answer b")
    with pytest.raises(WorkerError, match="the connection to the Dask scheduler is lost"):
        next(answers)


def test_a_local_cluster_without_processes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(cluster, "_SILENCE_SECONDS", 0.01)
    client = Dying()
    monkeypatch.setattr(Ended, "add_done_callback", lambda *_arguments: None)
    monkeypatch.setattr(client, "nthreads", dict)
    with pytest.raises(WorkerError, match="no process of the local Dask cluster can be started"):
        list(Cluster(client, is_local=True).run(answer, "a", attempts=1))
    stop = Event()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        list(Cluster(client, is_local=False).run(answer, "a", attempts=1, stop=stop))
