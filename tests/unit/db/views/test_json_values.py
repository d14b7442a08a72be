from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from tests.testbed.instances import later
from worker.db.tables import SeriesStatus
from worker.db.views.json_values import json_value


@dataclass(frozen=True)
class _Inner:
    at: datetime
    status: SeriesStatus


@dataclass(frozen=True)
class _Outer:
    inner: tuple[_Inner, ...]
    numbers: list[float]
    absent: None = None


def test_dataclasses_sequences_and_times_are_plain_json() -> None:
    value = json_value(_Outer((_Inner(later(0.25), SeriesStatus.NOT_ASSESSED),), [0.5]))
    assert json.loads(json.dumps(value)) == {
        "inner": [{"at": "2026-03-01T12:00:00.250Z", "status": "not-assessed"}],
        "numbers": [0.5],
        "absent": None,
    }


def test_a_time_of_another_zone_keeps_its_offset() -> None:
    assert json_value(datetime(2026, 3, 1, 13, tzinfo=timezone(timedelta(hours=1)))) == "2026-03-01T13:00:00.000+01:00"
