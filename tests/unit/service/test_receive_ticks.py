"""What the receive role does every so often; what each does is tested where it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.testbed.databases import make_tables
from tests.testbed.instances import later
from tests.testbed.waiting import patience
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.service.receive_ticks import start_receive_ticks
from worker.storage.refusals import Refusals

_RUN_EVERY_TICK = """
import sys, threading
from datetime import UTC, datetime
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.imports import PYDICOM_COMPANIONS, without
from worker.service.schedule import tick_now
with without(*PYDICOM_COMPANIONS):
    from worker.service.receive_ticks import start_receive_ticks
from apscheduler.events import EVENT_JOB_EXECUTED
settings = Settings.model_validate({"worker": {"data_dir": sys.argv[1]}, "database": {"url": sys.argv[2]}})
database = Database(settings.database.url)
ticks = start_receive_ticks(settings, database, lambda: datetime.now(UTC))
left, done = {job.id for job in ticks.get_jobs()}, threading.Event()
def executed(event):
    left.discard(event.job_id)
    if not left:
        done.set()
ticks.add_listener(executed, EVENT_JOB_EXECUTED)
tick_now(ticks)
assert done.wait(float(sys.argv[3])), left
ticks.shutdown(wait=True)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_no_tick_loads_the_web_interface_or_pixels(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'worker.db'}"
    database = Database(url)
    make_tables(database)
    database.close()
    command = [sys.executable, "-c", _RUN_EVERY_TICK, str(tmp_path), url, str(patience(60))]
    loaded = set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert {"sqlalchemy", "apscheduler", "pydicom"} <= loaded
    assert loaded & {"jinja2", "fastapi", "starlette", "uvicorn", "markdown_it", "numpy", "PIL", "openvino"} == set()


def test_each_peer_that_answers_queries_has_a_tick_of_its_own(tmp_path: Path) -> None:
    peers = [
        {"ae_title": title, "host": "127.0.0.1", "port": 9, "query": query}
        for title, query in (("A", True), ("B", False), ("C", True))
    ]
    settings = Settings.model_validate({"worker": {"data_dir": tmp_path}, "peer": peers})
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    ticks = start_receive_ticks(settings, database, lambda: later(0), refusals=Refusals(database))
    names = {job.id for job in ticks.get_jobs()}
    ticks.shutdown(wait=True)
    database.close()
    assert names == {"settle", "associations", "retention", "scrub", "refusals", "count-A", "count-C"}
