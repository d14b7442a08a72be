"""Searches and pages with a million series in 250,000 studies, on SQLite and on PostgreSQL where it is installed.

    PYTHONPATH=. python benchmarks/query_million.py   # 1,000,000 series in a temporary folder: 2 GB, minutes
    PYTHONPATH=. python benchmarks/query_million.py --rows 50000 --keep /tmp/queries

Prints the median and the 95th percentile of each search over different values, for studies as the worklist lists them
and for series as the REST interface does, and of the pages that `worker serve
--role web` sends to a signed-in user: the whole answer over HTTP, and until a headless Chromium has built the document.
Exits 1 when the 95th percentile of a search exceeds 50 ms, or that of a page 300 ms.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median, quantiles
from urllib.parse import urlencode

import httpx
from sqlalchemy import text

from benchmarks.rows import Row, add_common, finish, processor_seconds_of, reached
from tests.testbed import postgres
from tests.testbed.browser import CHROMIUM, FLAGS
from tests.testbed.dcmtk import free_port, wait_for_port
from worker.config.settings import Settings
from worker.db import tokens
from worker.db.engine import Database
from worker.db.migrate import migrate
from worker.db.tables import ReadState, SeriesStatus, TokenRole
from worker.db.views import activity
from worker.db.views.search import ListPosition, Search, find_page
from worker.db.views.worklist.numbers import count_studies
from worker.db.views.worklist.pages import find_study_page

SEARCH_LIMIT_MS, PAGE_LIMIT_MS = 50.0, 300.0
LOADS = 20  # of each page
START = datetime(2025, 1, 1, tzinfo=UTC)
SECONDS_APART = 30
PAGE = 50

# Of 1,000 series 50 are refused, 20 not assessed and 1 failed; the others are spread evenly over four classes.
_STATUS = "CASE WHEN n % 1000 = 7 THEN 'failed' WHEN n % 20 = 3 THEN 'refused' WHEN n % 50 = 9 THEN 'not-assessed' "
_STATUS += "ELSE 'classified' END"
_LABEL = "CASE WHEN n % 1000 = 7 OR n % 20 = 3 OR n % 50 = 9 THEN NULL ELSE "
_LABEL += (
    "CASE (n / 7) % 4 WHEN 0 THEN 'glioma' WHEN 1 THEN 'meningioma' WHEN 2 THEN 'pituitary' ELSE 'notumor' END END"
)
_SECONDS = f"{int(START.timestamp())} + n * {SECONDS_APART}"
# Placeholders, and what they are in each dialect: the time of series n, that of study n, the type of a JSON column.
_TIME, _STUDY_TIME, _JSON = "@time", "@study_time", "@json"
_AT = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%S', {}, 'unixepoch') || '.000000'",
    "postgresql": "to_timestamp({})",
}
_OF_STUDY = f"{int(START.timestamp())} + n * {SECONDS_APART * 4}"
WORDS = {
    dialect: {_TIME: at.format(_SECONDS), _STUDY_TIME: at.format(_OF_STUDY), _JSON: json_type}
    for (dialect, at), json_type in zip(_AT.items(), ("TEXT", "JSON"), strict=True)
}
_NUMBERS = (
    "WITH RECURSIVE numbers(n) AS (SELECT CAST(1 AS BIGINT) UNION ALL SELECT n + 1 FROM numbers WHERE n < :rows) "
)
_SERIES_A_STUDY = 4
_STUDY = f"(n / {_SERIES_A_STUDY})"
_PATIENT = f"'P' || substr(CAST(10000000 + ({_STUDY} * 7919) % (:rows / 8 + 1) AS TEXT), 2)"
_FAMILY = f"(({_STUDY} * 104729) % 20011)"
_PROBABILITY = f"CASE WHEN {_LABEL} IS NULL THEN NULL ELSE 0.5 + ((n * 31) % 1000) / 2000.0 END"
_CONTRIBUTION = (
    """'{"answer": {"series": "2.25.1' || (4 * n + @place) || '", "number": @place, "sequence": "T1", """
    """"plane": "axial", "label": "glioma", "reason": null, "lesion_probability": 0.9, """
    """"probabilities": {"glioma": 0.9, "notumor": 0.1}}, "weight": 0.25, "contradicts": false}'"""
)
_CONTRIBUTIONS = " || ', ' || ".join(_CONTRIBUTION.replace("@place", str(place)) for place in range(_SERIES_A_STUDY))
FILL = {
    "model": f"INSERT INTO model (id, name, version, sha256, added_at, state, state_at, state_by) VALUES "
    f"(1, 'bench', '1', '{'0' * 64}', '2025-01-01 00:00:00.000000', 'active', '2025-01-01 00:00:00.000000', 'bench')",
    "series": _NUMBERS + "INSERT INTO series (id, series_instance_uid, study_instance_uid, patient_id, patient_name, "
    "accession_number, study_date, modality, series_description, state, created_at, last_received_at, settled_at, "
    "status, label, probability, answered_job_id, reason, name_key, search_entry_id, sequence) "
    f"SELECT n, '2.25.1' || n, '2.25.2' || {_STUDY}, {_PATIENT}, "
    f"'FAMILY' || {_FAMILY} || '^GIVEN', 'A' || substr(CAST(1000000000 + {_STUDY} AS TEXT), 2), '20250101', "
    f"'MR', 'T1', CASE WHEN n % 20 = 3 AND n % 1000 <> 7 THEN 'refused' ELSE 'queued' END, {_TIME}, {_TIME}, "
    f"{_TIME}, {_STATUS}, {_LABEL}, {_PROBABILITY}, "
    f"CASE WHEN {_STATUS} = 'refused' THEN NULL ELSE n END, CASE WHEN {_STATUS} = 'refused' THEN 'modality' END, "
    f"'family' || {_FAMILY} || '^given', {_STUDY}, "
    "CASE WHEN n % 50000 = 1 THEN 'SWI' ELSE CASE n % 4 WHEN 0 THEN 'T1' WHEN 1 THEN 'FLAIR' WHEN 2 THEN 'T2' "
    "ELSE 'DWI' END END FROM numbers",
    "study": _NUMBERS + "INSERT INTO study (id, study_instance_uid, state, attempts, received_at, status, label, "
    f"probability, answered_by, read_state) SELECT n, '2.25.2' || n, 'answered', 0, {_STUDY_TIME}, {_STATUS}, "
    f"{_LABEL}, {_PROBABILITY}, CASE WHEN {_LABEL} IS NULL THEN NULL ELSE n END, "
    "CASE WHEN n % 2000 = 11 THEN 'corrected' WHEN n % 20 = 12 THEN 'confirmed' "
    f"ELSE 'unread' END FROM numbers WHERE n <= :rows / {_SERIES_A_STUDY}",
    "study_result": "INSERT INTO study_result (id, study_id, number, model_id, input_sha256, status, label, "
    "probability, probabilities, deciding, contributions, created_at) SELECT n, n, 1, 1, '', 'classified', label, "
    f"probability, '{{}}', '2.25.1' || (4 * n), CAST('[' || {_CONTRIBUTIONS} || ']' AS {_JSON}), received_at "
    "FROM (SELECT id AS n, * FROM study WHERE answered_by IS NOT NULL) AS answered",
    # The words of dicom.text.folding: each study has its own accession number, so none shares its entry.
    "search_entry": f"INSERT INTO search_entry (id, sha256, words) SELECT id / {_SERIES_A_STUDY}, "
    "CAST(id AS TEXT), ' given ' || replace(name_key, '^given', '') || ' ' || lower(patient_id) || ' ' || "
    f"lower(accession_number) FROM series WHERE id % {_SERIES_A_STUDY} = 0",
    "search_word": "INSERT INTO search_word (word, entry_id) SELECT DISTINCT word, id FROM ("
    + " UNION ALL ".join(
        f"SELECT substr(lower({column}), {start}) AS word, search_entry_id AS id FROM series"
        f" WHERE id % {_SERIES_A_STUDY} = 0"
        for column, ends in (("patient_id", 6), ("accession_number", 8))
        for start in range(1, ends + 1)
    )
    + "".join(
        f" UNION ALL SELECT {word}, search_entry_id FROM series WHERE id % {_SERIES_A_STUDY} = 0"
        for word in ("'given'", "replace(name_key, '^given', '')")
    )
    + ") AS words ORDER BY word, id",
    "instance": "INSERT INTO instance (series_id, sop_instance_uid, sop_class_uid, transfer_syntax_uid, attributes, "
    "path, size, sha256, received_at) "
    "SELECT id, '2.25.3' || id, '1.2', '1.2', '{}', 'x', 1, '', created_at FROM series",
    "job": "INSERT INTO job (id, series_id, model_id, input_sha256, last_instance_id, shadow, state, attempts, "
    "not_before, created_at, finished_at) SELECT id, id, 1, '', id, FALSE, CASE status WHEN 'failed' "
    "THEN 'parked' ELSE 'done' END, 1, created_at, created_at, created_at FROM series WHERE status <> 'refused'",
    "result": "INSERT INTO result (id, job_id, series_id, model_id, status, label, probability, probabilities, reason, "
    "created_at) SELECT id, id, id, 1, status, label, probability, '{}', CASE status WHEN 'classified' THEN NULL ELSE "
    "'too-uncertain' END, created_at FROM series WHERE status IN ('classified', 'not-assessed')",
    "object": "INSERT INTO object (id, result_id, kind, sop_class_uid, sop_instance_uid, series_instance_uid, path, "
    "sha256) SELECT 2 * id, id, 'report', '1.2', '2.25.4' || id, '2.25.6' || id, 'x', '' FROM result "
    "UNION ALL SELECT 2 * id + 1, id, 'picture', '1.2', '2.25.5' || id, '2.25.7' || id, 'x', '' FROM result",
    "delivery": "INSERT INTO delivery (object_id, destination, state, attempts, rejections, not_before, delivered_at) "
    "SELECT id, 'pacs', 'delivered', 1, 0, '2025-01-01 00:00:00.000000', '2025-01-01 00:00:00.000000' FROM object",
}


def fill(database: Database, rows: int) -> None:
    """Insert `rows` series, each with its job, result, objects and deliveries."""
    for table, statement in FILL.items():
        started = time.monotonic()
        with database.engine.begin() as connection:
            for placeholder, word in WORDS[connection.dialect.name].items():
                statement = statement.replace(placeholder, word)
            connection.execute(text(statement), {"rows": rows} if ":rows" in statement else {})
        print(f"{table:10} filled in {time.monotonic() - started:6.1f} s", flush=True)
    if database.engine.dialect.name == "postgresql":
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")  # as autovacuum does within minutes


def searches(rows: int, random_: random.Random) -> dict[str, Callable[[], Search]]:
    """The searches of users; each call gives other values."""

    def number() -> int:
        return random_.randrange(1, rows)

    def day() -> date:
        return (START + timedelta(seconds=SECONDS_APART * number())).date()

    def position() -> ListPosition:
        at = number()
        return ListPosition(START + timedelta(seconds=SECONDS_APART * at), at // _SERIES_A_STUDY)

    def patient() -> str:
        return f"P{number() // 4 * 7919 % (rows // 8 + 1):07d}"

    labels = ("glioma", "meningioma", "pituitary", "notumor")
    return {
        "newest": Search,
        "anywhere in the list": lambda: Search(older_than=position()),
        "back from anywhere": lambda: Search(newer_than=position()),
        "status": lambda: Search(status=random_.choice(list(SeriesStatus))),
        "status, anywhere": lambda: Search(status=random_.choice(list(SeriesStatus)), older_than=position()),
        "class": lambda: Search(label=random_.choice(labels)),
        "class, from 0.95": lambda: Search(label=random_.choice(labels), minimum_probability=0.95),
        "from 0.999": lambda: Search(minimum_probability=0.999),
        "answered": lambda: Search(answered=True),
        "a day": lambda: (lambda date_: Search(since=date_, until=date_))(day()),
        "class, since a day": lambda: Search(label=random_.choice(labels), since=day()),
        "status and class until a day": lambda: Search(
            status=SeriesStatus.CLASSIFIED, label=random_.choice(labels), until=day()
        ),
        "patient": lambda: Search(patient_id=patient()),
        "patient and status": lambda: Search(patient_id=patient(), status=SeriesStatus.CLASSIFIED),
        "patient nobody has": lambda: Search(patient_id="none", status=SeriesStatus.CLASSIFIED),
        "accession number": lambda: Search(accession_number=f"A{number() // 4:09d}"),
        "study": lambda: Search(study_instance_uid=f"2.25.2{number() // 4}"),
        "text: an ID": lambda: Search(text=patient()),
        "text: begins few": lambda: Search(text=patient()[:6]),
        "text: begins many": lambda: Search(text="P0"),
        "text: begins all": lambda: Search(text="p"),
        "text: a name": lambda: Search(text=f"family{random_.randrange(20011)}"),
        "text: names in any order": lambda: Search(text=f"given, family{random_.randrange(20011)}"),
        "text: part of a number": lambda: Search(text=f"{number() // 4:06d}"[-6:]),
        "text: a common word": lambda: Search(text="given"),
        "text: nothing": lambda: Search(text="%_*"),
        "text: unknown": lambda: Search(text="nobody"),
        "sequence": lambda: Search(sequence=random_.choice(["T1", "FLAIR"])),
        "sequence few have": lambda: Search(sequence="SWI"),
        "sequence nobody has": lambda: Search(sequence="MRA"),
        "unread, class": lambda: Search(reading=ReadState.UNREAD, label=random_.choice(labels)),
        "corrected": lambda: Search(reading=ReadState.CORRECTED),
        "text and class": lambda: Search(text=patient()[:5], label=random_.choice(labels)),
    }


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a call: wall clock, and processor time, here or in the web role."""

    wall: float
    processor: float


def measure(
    work: Callable[[], float | None], times: int, processor: Callable[[], float] = time.process_time
) -> list[Timing]:
    """Time calls of `work`, which may return its own measurement in milliseconds."""
    timings = []
    for _ in range(times):
        wall, busy = time.perf_counter(), processor()
        own = work()
        elapsed = 1000 * (time.perf_counter() - wall) if own is None else own
        timings.append(Timing(elapsed, 1000 * (processor() - busy)))
    return timings


def report(name: str, timings: list[Timing], limit: float) -> Row:
    """Print a line; the row has the 95th percentile."""
    wall, processor = [timing.wall for timing in timings], [timing.processor for timing in timings]
    p95 = quantiles(wall, n=20, method="inclusive")[-1]
    mark = "" if p95 <= limit else "   TOO SLOW"
    busy = quantiles(processor, n=20, method="inclusive")[-1]
    print(f"{name:32} {median(wall):8.1f} {p95:8.1f} {max(wall):8.1f} {busy:8.1f} ms{mark}", flush=True)
    note = f"median {median(wall):.1f} ms, processor time p95 {busy:.1f} ms"
    return Row(name, p95, "ms, p95", len(timings), limit, "limit", limit / p95, 1.0, note)


def run(url: str, folder: Path, rows: int, times: int) -> Iterator[Row]:
    """Fill an empty database, then measure what has a limit. `folder` is the data folder, without images."""
    settings = Settings.model_validate({"worker": {"data_dir": folder}, "database": {"url": url}})
    database = Database(settings.database.url)
    if migrate(database)[0] is None:
        fill(database, rows)
    print(f"{database.engine.dialect.name}, {rows:,} series; {times} runs each")
    print(f"{'':32}   median      p95  slowest  p95 of processor time")
    for name, make in searches(rows, random.Random(1)).items():

        def search(make: Callable[[], Search] = make) -> None:
            with database.read() as session:
                find_page(session, make(), PAGE)

        yield report(f"series: {name}", measure(search, times), SEARCH_LIMIT_MS)
    for name, make in searches(rows, random.Random(3)).items():

        def worklist(make: Callable[[], Search] = make) -> None:
            with database.read() as session:
                find_study_page(session, make(), PAGE)

        yield report(f"studies: {name}", measure(worklist, times), SEARCH_LIMIT_MS)
    with database.read() as session:
        end = START + timedelta(seconds=SECONDS_APART * rows)

        def week() -> None:
            activity.find_activity(session, end, timedelta(hours=6), 28)

        def tallies() -> None:
            count_studies(session, Search())

        report("activity of a week", measure(week, 3), 1e9)
        report("tallies", measure(tallies, 5), 1e9)
        for name, make in searches(rows, random.Random(2)).items():

            def tally(make: Callable[[], Search] = make) -> None:
                count_studies(session, make())

            report(f"tallies, {name}", measure(tally, 5), 1e9)
    with database.write() as session:
        now = datetime.now(UTC)
        _, token = tokens.add_token(session, None, TokenRole.READ, now, now + timedelta(days=1))
    database.close()
    yield from pages(settings, token, rows, min(times, LOADS))


def pages(settings: Settings, token: str, rows: int, times: int) -> Iterator[Row]:
    """Measure the pages of a web role of its own for a signed-in user."""
    makers = searches(rows, random.Random(2))

    def older() -> dict[str, str]:
        return {"older_than": str(makers["anywhere in the list"]().older_than)}

    def searched() -> dict[str, str]:
        search = makers["text and class"]()
        return {"text": str(search.text), "label": str(search.label)}

    kinds: dict[str, Callable[[], dict[str, str]]] = {
        "the first page": dict,
        "a page further on": older,
        "a page of a search": searched,
    }
    with web_role(settings) as (address, pid), httpx.Client(base_url=address, timeout=60) as client:

        def busy() -> float:
            return processor_seconds_of(pid)

        def load(path: str, parameters: dict[str, str] | None = None) -> None:
            client.get(path, params=parameters or {}).raise_for_status()

        client.post("/sign-in", data={"token": token})
        for name, parameters in kinds.items():
            load("/", parameters())
            timings = measure(lambda parameters=parameters: load("/", parameters()), times, busy)  # type: ignore[misc]
            yield report(f"{name}, over HTTP", timings, PAGE_LIMIT_MS)
        load("/metrics")
        yield report("a scrape of /metrics, HTTP", measure(lambda: load("/metrics"), times, busy), PAGE_LIMIT_MS)
        with browser(address, token) as navigate:
            if navigate is None:
                print("no Chromium or no playwright: the pages are not measured in a browser")
                return
            for name, parameters in kinds.items():
                navigate(parameters())
                timings = measure(lambda parameters=parameters: navigate(parameters()), times, busy)  # type: ignore[misc]
                yield report(f"{name}, in Chromium", timings, PAGE_LIMIT_MS)


@contextmanager
def web_role(settings: Settings) -> Iterator[tuple[str, int]]:
    """Run `worker serve --role web` on a free port: its address and process ID."""
    port = free_port()
    with tempfile.TemporaryDirectory() as temporary:
        config = Path(temporary) / "config.toml"
        config.write_text(
            f"[worker]\ndata_dir = {json.dumps(str(settings.worker.data_dir))}\n"
            f"[database]\nurl = {json.dumps(settings.database.url)}\n[web]\nport = {port}\n"
        )
        command = [sys.executable, "-m", "worker", "serve", "--role", "web", "--config", str(config)]
        with (Path(temporary) / "log").open("w+") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                try:
                    wait_for_port(port, process)
                except (RuntimeError, TimeoutError):
                    log.seek(0)
                    raise RuntimeError(f"worker serve --role web did not start:\n{log.read()[-2000:]}") from None
                yield f"http://127.0.0.1:{port}", process.pid
            finally:
                process.terminate()
                process.wait(30)


@contextmanager
def browser(address: str, token: str) -> Iterator[Callable[[dict[str, str]], float] | None]:
    """A signed-in Chromium that loads the worklist: milliseconds to domContentLoadedEventEnd. None without Chromium."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        yield None
        return
    if CHROMIUM is None:
        yield None
        return
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=60_000)
        page = chromium.new_page(base_url=address)
        page.set_default_timeout(60_000)
        page.goto("/sign-in")
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Sign in").click()
        page.locator("table.studies").wait_for()

        def navigate(parameters: dict[str, str]) -> float:
            page.goto(f"/?{urlencode(parameters)}")
            return float(page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"))

        yield navigate
        chromium.close()


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--times", type=int, default=40)
    arguments.add_argument("--keep", type=Path, help="folder in which the database is kept and found again")
    add_common(arguments)
    chosen = arguments.parse_args()
    if chosen.quick:
        chosen.rows, chosen.times = 1000, 2
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = list(run(f"sqlite:///{folder / 'worker.db'}", folder, chosen.rows, chosen.times))
        if postgres.programs() is not None:
            with postgres.running() as url:
                on_postgresql = list(run(url, folder, chosen.rows, chosen.times))
            rows += [replace(row, row=f"{row.row}, PostgreSQL") for row in on_postgresql]
    if chosen.json:
        finish(f"Look up among {chosen.rows:,} series", rows, chosen.json)
    return 0 if all(map(reached, rows)) else 1


if __name__ == "__main__":
    sys.exit(main())
