"""The ticks of the send role: senders are queried for what they have of a study, each in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial

from apscheduler.schedulers.background import BackgroundScheduler

from worker.config.settings import Settings
from worker.db.engine import Database
from worker.send.study_counts import count_studies
from worker.service.schedule import Tick, start_ticks

_SLOWEST_COUNT_SECONDS = 1.0
_FASTEST_COUNT_SECONDS = 0.1


def start_send_ticks(
    settings: Settings, database: Database, clock: Callable[[], datetime]
) -> BackgroundScheduler | None:
    """Query every `[[peer]]` that may be queried; None where there is none. The caller shuts the scheduler down."""
    seconds = min(_SLOWEST_COUNT_SECONDS, max(_FASTEST_COUNT_SECONDS, settings.study.quiet_seconds / 10))
    ticks = [
        Tick(f"count-studies-{peer.ae_title}", seconds, partial(count_studies, database, settings, peer, clock))
        for peer in settings.peer
        if peer.query
    ]
    return start_ticks(ticks) if ticks else None
