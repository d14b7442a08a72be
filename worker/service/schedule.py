"""APScheduler ticks: what a role does at regular intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from worker.logs import fault_fields, get_log


@dataclass(frozen=True, slots=True)
class Tick:
    """A function that runs every `seconds`; `name` is unique within a role and appears in the log."""

    name: str
    seconds: float
    run: Callable[[], object]


def start_ticks(ticks: Sequence[Tick]) -> BackgroundScheduler:
    """Start the ticks; each first runs after its `seconds`, in its own thread, so that a slow tick delays no other.

    The caller shuts the scheduler down.
    """
    scheduler = BackgroundScheduler(timezone="UTC", executors={"default": ThreadPoolExecutor(len(ticks))})
    for tick in ticks:
        scheduler.add_job(
            _run, "interval", args=[tick], seconds=tick.seconds, id=tick.name, coalesce=True, max_instances=1
        )
    scheduler.start()
    return scheduler


def tick_now(scheduler: BackgroundScheduler) -> None:
    """Run every tick at once.

    After the clock was set back the scheduler would otherwise wait until the clock reaches its old time again.
    """
    for job in scheduler.get_jobs():
        job.modify(next_run_time=datetime.now(UTC))


def _run(tick: Tick) -> None:
    try:
        tick.run()
    except Exception as error:  # a tick's boundary; the next run tries again
        get_log().error("tick failed", tick=tick.name, **fault_fields(error))
