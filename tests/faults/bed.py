"""What every fault needs: workers, a PACS, senders that repeat what was not acknowledged, and the count at the end."""

from __future__ import annotations

import atexit
import hashlib
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pynetdicom import AE
from pynetdicom.association import Association
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from tests.testbed import dcmtk, orthanc
from tests.testbed.instances import encoded, mr_instance
from tests.testbed.orthanc import Orthanc
from tests.testbed.pacs import PICTURES, REPORTS, Pacs
from tests.testbed.tiny_bundle import make_tiny_bundle
from tests.testbed.waiting import wait_until
from tests.testbed.worker_process import WorkerProcess
from worker.dicom.standard import derive_uid

SLICES = 4
ROWS = 64
# Longer than a killed receiver takes to come back, so that a series is not settled while its sender is cut off.
QUIET_SECONDS = 8
LEASE_SECONDS = 5
START_SECONDS = 300  # of a worker, on a machine that has other work
Address = tuple[str, int]


@dataclass
class Outcome:
    """One row of the table."""

    fault: str
    tries: int = 0
    survived: int = 0  # tries after which the service went on as it should
    instances: int = 0  # acknowledged
    series: int = 0
    lost: int = 0
    duplicated: int = 0
    seed: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)  # what did not hold; empty is well
    measured: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return self.lost == self.duplicated == 0 and self.survived == self.tries and not self.notes

    def fault_found(self, note: str) -> None:
        if len(self.notes) < 20:
            self.notes.append(note)


def small_series(name: str) -> list[Dataset]:
    """A series of a few small slices that the tiny model classifies; "s1/2" is series 2 of the study s1."""
    study, _, number_in_study = name.partition("/")
    of_study = {
        "StudyInstanceUID": derive_uid("study", study),
        "PatientID": f"ID-{study}",
        "PatientName": f"Family^{study}",
        "AccessionNumber": f"ACC-{study}",
        "SeriesNumber": int(number_in_study or 1),
    }
    noise = np.random.default_rng(sum(name.encode()))
    y, x = np.mgrid[-1 : 1 : ROWS * 1j, -1 : 1 : ROWS * 1j]
    slices = []
    for number in range(1, SLICES + 1):
        head = (x**2 + (y / 1.2) ** 2 < 0.6) * 1500 + noise.integers(0, 100, (ROWS, ROWS))
        pixels = head.astype(np.uint16).tobytes()
        ds = mr_instance(number, name, Rows=ROWS, Columns=ROWS, PixelData=pixels, **of_study)
        encoded(ds)  # gives it its file meta information
        slices.append(ds)
    return slices


class Sender:
    """A modality that repeats every instance until it is acknowledged, on as many associations as it takes.

    With several addresses it goes on to the next one when one does not answer.
    """

    def __init__(
        self, addresses: Sequence[Address], names: Sequence[str], pause_seconds: float = 0.0, answer_seconds: float = 30
    ) -> None:
        self._addresses = addresses
        self._names = names
        self._pause = pause_seconds
        self._answer_seconds = answer_seconds
        self.acknowledged: dict[str, str] = {}  # SOP Instance UID → SHA-256 of the pixels
        self.refusals = 0

    def run(self, deadline: float) -> None:
        for number, name in enumerate(self._names):
            waiting, turn = small_series(name), number
            while waiting and time.monotonic() < deadline:
                waiting = self._send(waiting, self._addresses[turn % len(self._addresses)])
                if waiting:
                    turn += 1
                    time.sleep(0.2)

    def _send(self, waiting: list[Dataset], address: Address) -> list[Dataset]:
        assoc = self._associate(waiting[0], address)
        if not assoc.is_established:
            return waiting
        left = list(waiting)
        for ds in waiting:
            try:
                answer = assoc.send_c_store(ds)
            except RuntimeError:  # the association was lost
                break
            if "Status" not in answer:
                break
            if answer.Status != 0x0000:
                self.refusals += 1
                break
            self.acknowledge(ds)
            left.remove(ds)
            time.sleep(self._pause)
        if assoc.is_established:
            assoc.release()
        return left

    def _associate(self, ds: Dataset, address: Address) -> Association:
        ae = AE(ae_title="MODALITY")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = self._answer_seconds
        ae.connection_timeout = 3
        ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
        return ae.associate(*address, ae_title="AI_WORKER")

    def acknowledge(self, ds: Dataset) -> None:
        self.acknowledged[str(ds.SOPInstanceUID)] = hashlib.sha256(ds.PixelData).hexdigest()


class DcmtkSender(Sender):
    """The same with DCMTK's storescu: a whole series again until it exits with 0."""

    def _send(self, waiting: list[Dataset], address: Address) -> list[Dataset]:
        with tempfile.TemporaryDirectory(prefix="storescu-") as name:
            for number, ds in enumerate(waiting):
                (Path(name) / f"{number}.dcm").write_bytes(encoded(ds))
            paths = sorted(Path(name).iterdir())
            host, port = address
            limit = f"{self._answer_seconds:.0f}"
            options = ["-to", "3", "-td", limit, "-ta", limit, "-aec", "AI_WORKER", "-aet", "DCMTK", host, str(port)]
            try:
                dcmtk.run("storescu", *options, *paths, timeout=120)
            except (RuntimeError, subprocess.TimeoutExpired):
                self.refusals += 1
                return waiting
        for ds in waiting:
            self.acknowledge(ds)
        return []


@dataclass
class Bed:
    """The workers of a scenario, the PACSs they report to, and the senders."""

    workers: list[WorkerProcess]
    pacs: Pacs
    orthanc: Orthanc | None
    senders: list[Sender]
    threads: list[threading.Thread]
    database_url: str | None  # None: SQLite, one worker

    @property
    def worker(self) -> WorkerProcess:
        return self.workers[0]

    @property
    def data(self) -> Path:
        return self.worker.data

    @property
    def sending(self) -> bool:
        return any(thread.is_alive() for thread in self.threads)

    @property
    def acknowledged(self) -> dict[str, str]:
        return {uid: digest for sender in self.senders for uid, digest in sender.acknowledged.items()}

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return rows(self.worker, query, self.database_url)


def rows(worker: WorkerProcess, query: str, database_url: str | None = None) -> list[tuple[Any, ...]]:
    """What a query says, of SQLite or of PostgreSQL."""
    if database_url is None:
        return worker.rows(query)
    engine = create_engine(database_url, poolclass=NullPool)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def process_of_role(worker: WorkerProcess, role: str) -> int | None:
    """The process id of one process of that role; None when none runs just now."""
    wanted = f"--config\0{worker.config}".encode()
    for entry in Path("/proc").iterdir():
        try:
            is_of_role = entry.name.isdigit() and (entry / "comm").read_text() == f"worker-{role}\n"
            if is_of_role and wanted in (entry / "cmdline").read_bytes():
                return int(entry.name)
        except (OSError, ProcessLookupError):
            continue
    return None


@cache
def tiny_bundle() -> Path:
    """Made once a run; the workers only read it."""
    folder = tempfile.TemporaryDirectory(prefix="soak-bundle-")
    atexit.register(folder.cleanup)
    return make_tiny_bundle(Path(folder.name) / "bundle")


Hosts = Callable[[dict[str, dict[str, Any]], dict[str, Address]], list[WorkerProcess]]


@contextmanager
def bed(
    folder: Path,
    series: int,
    senders: int,
    seconds: float,
    *,
    pause: float = 0.0,
    answer_seconds: float = 30,
    real_peers: bool = False,
    database_url: str | None = None,
    hosts: Hosts | None = None,
    environment: dict[str, str] | None = None,
    settings: dict[str, dict[str, Any]] | None = None,
    pacs_host: str = "127.0.0.1",
    series_of_study: int = 1,
) -> Iterator[Bed]:
    """Everything started, the senders at work; `hosts` makes the workers where one on this host is not enough.

    With `real_peers` DCMTK is one of the senders and Orthanc a second destination, where they are installed.
    """
    sections: dict[str, dict[str, Any]] = {
        "worker": {"bundle": str(tiny_bundle()), "lease_seconds": LEASE_SECONDS},
        "receive": {"quiet_seconds": QUIET_SECONDS, "minimum_free_bytes": 0},
    }
    if database_url is not None:
        sections["database"] = {"url": database_url}
    for name, keys in (settings or {}).items():
        sections.setdefault(name, {}).update(keys)
    with ExitStack() as stack:
        pacs = stack.enter_context(Pacs(host=pacs_host))
        destinations = {"pacs": (pacs.ae_title, pacs.port)}
        archive = None
        if real_peers and orthanc.program() is not None:
            archive = stack.enter_context(orthanc.running(folder / "orthanc", dcmtk.free_port()))
            destinations["orthanc"] = (archive.ae_title, archive.port)
        if hosts is None:
            worker = WorkerProcess(
                folder / "worker", destinations=destinations, settings=sections, environment=environment
            )
            workers = [worker]
        else:
            workers = hosts(sections, destinations)
        for worker in workers:
            stack.callback(worker.kill)
            worker.start(START_SECONDS)
        addresses = [(worker.host, worker.port) for worker in workers]
        names = [f"s{number}" for number in range(series)]
        if series_of_study > 1:
            names = [f"s{number // series_of_study}/{1 + number % series_of_study}" for number in range(series)]
        kinds = [DcmtkSender if real_peers and dcmtk.installed() else Sender, *[Sender] * (senders - 1)]
        parts = [
            kind(addresses[index % 2 :] + addresses[: index % 2], names[index::senders], pause, answer_seconds)
            for index, kind in enumerate(kinds)
        ]
        deadline = time.monotonic() + seconds
        threads = [threading.Thread(target=part.run, args=(deadline,), daemon=True) for part in parts]
        for thread in threads:
            thread.start()
        yield Bed(workers, pacs, archive, parts, threads, database_url)


UNFINISHED = """SELECT (SELECT count(*) FROM series WHERE state = 'open')
    + (SELECT count(*) FROM job WHERE state IN ('pending', 'running'))
    + (SELECT count(*) FROM delivery WHERE state != 'delivered')"""


def check(outcome: Outcome, bed: Bed, series: int, seconds: float) -> Outcome:
    """Wait until all is answered, then count what is missing and what is there twice."""
    for thread in bed.threads:
        thread.join(seconds)
    try:
        wait_until(lambda: not bed.rows(UNFINISHED)[0][0], "every series to be answered", seconds, every=1)
    except TimeoutError as error:
        outcome.fault_found(str(error))
    else:
        outcome.survived = outcome.tries
    for worker in bed.workers:
        worker.require_alive()
    outcome.instances, outcome.series = len(bed.acknowledged), series
    count_instances(outcome, bed)
    _count_reports(outcome, bed, series)
    return outcome


def files_of_rows(worker: WorkerProcess, database_url: str | None = None) -> dict[str, bytes]:
    """SOP Instance UID → the file that its row names; empty where it is missing or not as the row says."""
    found = {}
    for uid, path, sha256 in rows(worker, "SELECT sop_instance_uid, path, sha256 FROM instance", database_url):
        file = worker.data / path
        content = file.read_bytes() if file.is_file() else b""
        found[uid] = content if hashlib.sha256(content).hexdigest() == sha256 else b""
    return found


def count_instances(outcome: Outcome, bed: Bed) -> None:
    stored = files_of_rows(bed.worker, bed.database_url)
    [(count,)] = bed.rows("SELECT count(*) FROM instance")
    outcome.duplicated += count - len(stored)
    for uid, digest in bed.acknowledged.items():
        content = stored.get(uid, b"")
        if not content or hashlib.sha256(dcmread(BytesIO(content)).PixelData).hexdigest() != digest:
            outcome.lost += 1
    files = len(list((bed.data / "instances").glob("??/*/*.dcm")))
    if files != count:
        outcome.fault_found(f"{files} files for {count} rows")


def _count_reports(outcome: Outcome, bed: Bed, series: int) -> None:
    """Each study (one series) has exactly one report and one picture, in every PACS, as the row says."""
    made = {uid: sha256 for uid, path, sha256 in bed.rows("SELECT sop_instance_uid, path, sha256 FROM object")}
    for kind in (REPORTS, PICTURES):
        _count_studies(outcome, studies_of(bed.pacs.files(kind)), series)
        if bed.orthanc is not None:
            found = [one for one in bed.orthanc.instances() if one["SOPClassUID"] in kind]
            _count_studies(outcome, [one["StudyInstanceUID"] for one in found], series)
    for path, sha256 in bed.rows("SELECT path, sha256 FROM object"):
        file = bed.data / path
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
            outcome.fault_found("an object's file is not what its row says")
    if set(bed.pacs.stored) - set(made):
        outcome.fault_found("the PACS holds an object that has no row")
    [(twice,)] = bed.rows(
        "SELECT count(*) FROM (SELECT series_id FROM result GROUP BY series_id HAVING count(*) > 1) AS more"
    )
    outcome.duplicated += twice
    if bed.database_url is None and bed.rows("PRAGMA integrity_check") != [("ok",)]:
        outcome.fault_found("SQLite's integrity check fails")


def studies_of(files: dict[str, bytes]) -> list[str]:
    return [str(dcmread(BytesIO(content), stop_before_pixels=True).StudyInstanceUID) for content in files.values()]


def _count_studies(outcome: Outcome, studies: list[str], series: int) -> None:
    outcome.lost += series - len(set(studies))
    outcome.duplicated += len(studies) - len(set(studies))
