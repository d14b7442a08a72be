from __future__ import annotations

import threading

import pytest

from worker import stage_times
from worker.stage_times import BOUNDS, LONGER, STAGES, StageCount, StageKey, StageTimes, timed


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> StageTimes:
    """Without what other tests of this process count."""
    times = StageTimes()
    monkeypatch.setattr(stage_times, "STAGE_TIMES", times)
    return times


@pytest.mark.parametrize(
    ("seconds", "bound"), [(0, 1), (0.001, 1), (0.0011, 2), (0.4, 500), (100, BOUNDS[-1]), (100.1, LONGER)]
)
def test_a_time_counts_in_the_first_bucket_that_holds_it(seconds: float, bound: int) -> None:
    times = StageTimes()
    times.add("series", "read", seconds)
    assert times.take() == {StageKey("series", "read", bound): StageCount(1, seconds)}


def test_what_is_taken_is_counted_once_and_what_is_given_back_again() -> None:
    times = StageTimes()
    for seconds in (0.25, 0.5):
        times.add("study", "claim", seconds)
    taken = times.take()
    assert taken == {StageKey("study", "claim", 500): StageCount(2, 0.75)}
    assert times.take() == {}
    times.add("study", "claim", 0.25)
    times.give_back(taken)
    assert times.take() == {StageKey("study", "claim", 500): StageCount(3, 1.0)}


@pytest.mark.parametrize(("work", "stage"), [("series", "lunch"), ("lunch", "read")])
def test_a_stage_that_metrics_do_not_know_is_refused(work: str, stage: str) -> None:
    with pytest.raises(KeyError, match="lunch"):
        StageTimes().add(work, stage, 1)


def test_a_block_is_counted_however_it_ends(own: StageTimes) -> None:
    with timed("delivery", "send"):
        pass
    with pytest.raises(OSError, match="cut"), timed("delivery", "send"):
        raise OSError("cut")
    [(key, count)] = own.take().items()
    assert (key, count.number) == (StageKey("delivery", "send", 1), 2)
    assert 0 < count.seconds < 0.002


def test_no_count_is_lost_between_threads(own: StageTimes) -> None:
    taken: list[int] = []

    def work() -> None:
        for _ in range(2000):
            own.add("instance", "write", 0.01)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken += [count.number for count in own.take().values()]
    taken += [count.number for count in own.take().values()]
    assert sum(taken) == 8000


def test_names_fit_their_columns() -> None:
    assert all(len(name) <= 16 for work, stages in STAGES.items() for name in (work, *stages))
    assert sorted(set(BOUNDS)) == list(BOUNDS)
