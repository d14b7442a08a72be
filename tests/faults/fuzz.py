"""Hostile bytes against the real receiver, and against the inference path under a memory limit.

What must hold: every request ends in a status or an abort, in bounded time and memory; the receiver's process is the
same at the end; nothing is written outside the data folder; what was answered 0x0000 is on disk as it was sent.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from tests.faults import mutate, mutate_pdus
from tests.faults.bed import START_SECONDS, Outcome, files_of_rows, process_of_role, tiny_bundle
from tests.faults.wire import ABORTED, DATA, REJECTED, Closed, Wire
from tests.testbed import worker_process
from tests.testbed.waiting import wait_until
from tests.testbed.worker_process import WorkerProcess
from worker.errors import NotAssessable, RefusedInstance
from worker.inference.preprocess import Preprocessing, preprocess
from worker.reporting.outbox import read_header
from worker.reporting.source_attributes import SOURCE_KEYWORDS
from worker.storage.acceptance import StoreRequest, instance_path, read_instance

HANG_SECONDS = 120  # on a machine that has other work
MEMORY_BYTES = 1536 << 20  # what the receiver may grow to while it is attacked
PIPELINE_BYTES = 6 << 30  # address space of the inference path, its libraries included
IDLE_SECONDS = 15
_SENDERS = 4
_ACCEPT_SECONDS = 0.5
_READY = "ready"
_WATCH = Path(__file__).parent / "watch"


@dataclass
class Answers:
    """How requests ended, counted by all senders together."""

    counts: Counter[str] = field(default_factory=Counter)
    stored: dict[str, tuple[int, bytes]] = field(default_factory=dict)  # UID → size and digest of the dataset
    hangs: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, answer: str, hang: str = "") -> None:
        with self.lock:
            self.counts[answer] += 1
            if hang:
                self.hangs.append(hang)


@contextmanager
def watched_worker(folder: Path, **receive: object) -> Iterator[WorkerProcess]:
    """A worker that notes every write outside its own folder in `folder`/trespass."""
    settings = {
        "worker": {"bundle": str(tiny_bundle()), "lease_seconds": 5},
        "receive": {"quiet_seconds": 2, "minimum_free_bytes": 0, "idle_seconds": IDLE_SECONDS} | receive,
        "eligibility": {"minimum_slices": 1},
    }
    environment = {
        "PYTHONPATH": f"{_WATCH}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "SOAK_ALLOWED": str(folder / "worker"),
        "SOAK_TRESPASS": str(folder / "trespass"),
    }
    with worker_process.running(
        folder / "worker", settings=settings, environment=environment, start_seconds=START_SECONDS
    ) as worker:
        yield worker


def memory(pid: int) -> tuple[int, int]:
    """(now, highest ever) resident bytes of a process."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(lines["VmRSS"].split()[0]) << 10, int(lines["VmHWM"].split()[0]) << 10


def hostile_bytes(folder: Path, datasets: int, pdus: int, seed: int = 7) -> Outcome:
    """So many mutated datasets, in C-STORE requests, then so many mutated associations, from several senders."""
    outcome = Outcome(f"{datasets} mutated datasets and {pdus} mutated PDUs against receiver and pipeline", seed=seed)
    answers = Answers()
    with watched_worker(folder) as worker:
        pid = process_of_role(worker, "receive")
        if pid is None:
            raise RuntimeError("no receiver runs")
        before, _ = memory(pid)
        for send, count in ((_send_datasets, datasets), (_send_sessions, pdus)):
            threads = [
                threading.Thread(
                    target=send, args=(worker.port, range(first, count, _SENDERS), answers, seed), daemon=True
                )
                for first in range(_SENDERS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        outcome.tries = sum(answers.counts.values())
        outcome.survived = outcome.tries - len(answers.hangs)
        if outcome.tries != datasets + pdus:
            outcome.fault_found(f"{outcome.tries} of {datasets + pdus} were sent")
        if process_of_role(worker, "receive") != pid:
            outcome.fault_found("the receiver died")
            return outcome
        after, highest = memory(pid)
        outcome.measured.append(f"receiver {before >> 20} MiB before, {after >> 20} after, {highest >> 20} at most")
        if highest > MEMORY_BYTES:
            outcome.fault_found(f"the receiver took {highest >> 20} MiB")
        _check_answered(outcome, worker, answers)
        _check_files(outcome, folder, worker)
    outcome.measured.append(", ".join(f"{name} {number}" for name, number in answers.counts.most_common()))
    for hang in answers.hangs[:5]:
        outcome.fault_found(f"no answer: {hang}")
    return outcome


def _check_answered(outcome: Outcome, worker: WorkerProcess, answers: Answers) -> None:
    """A good instance is stored at once, every association comes to an end, and every series too."""
    ds = mutate.valid(999_990)
    with Wire(worker.port, HANG_SECONDS) as peer:
        [context] = peer.associate([(MRImageStorage, ExplicitVRLittleEndian)])
        content = mutate.encode(ds, ExplicitVRLittleEndian)
        if peer.store(context, MRImageStorage, str(ds.SOPInstanceUID), content) != 0:
            outcome.fault_found("a good instance was not stored afterwards")
        peer.release()
    unfinished = """SELECT (SELECT count(*) FROM series WHERE state = 'open')
        + (SELECT count(*) FROM job WHERE state IN ('pending', 'running'))
        + (SELECT count(*) FROM association WHERE closed_at IS NULL)"""
    try:
        wait_until(lambda: worker.rows(unfinished)[0][0] == 0, "every series to end", 300 + outcome.tries / 4, every=1)
    except TimeoutError:
        outcome.fault_found(f"{worker.rows(unfinished)[0][0]} series, jobs or associations did not end")
    states = worker.rows("SELECT state, count(*) FROM job GROUP BY state")
    outcome.measured.append("jobs: " + (", ".join(f"{state} {number}" for state, number in states) or "none"))
    # A bomb that takes more memory than a job may is parked with that reason, as it should.
    parked = worker.rows("SELECT reason, count(*) FROM job WHERE state = 'parked' GROUP BY reason")
    for reason, number in parked:
        if reason == "memory-limit":
            outcome.measured.append(f"{number} of them by the limit of memory")
        else:
            outcome.fault_found(f"{number} jobs parked: {reason}")
    stored = files_of_rows(worker)
    [(series,)] = worker.rows("SELECT count(*) FROM series")
    outcome.instances, outcome.series = len(answers.stored), series
    for uid, (size, digest) in answers.stored.items():
        if _digest(stored.get(uid, b"")[-size:]) != digest:  # the file is preamble, meta information and dataset
            outcome.lost += 1


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _check_files(outcome: Outcome, folder: Path, worker: WorkerProcess) -> None:
    trespass = folder / "trespass"
    noted = trespass.read_text().splitlines() if trespass.exists() else ["nobody watched"]
    for line in sorted(set(noted))[:5]:
        outcome.fault_found(f"written outside the data folder: {line}")
    allowed = ("instances/", "conflicts/", "objects/", "audit/", "worker.db")
    data = worker.folder / "var"
    for path in data.rglob("*"):
        inside = path.relative_to(data).as_posix()
        if path.is_file() and not (inside.startswith(allowed) and path.resolve().is_relative_to(data)):
            outcome.fault_found(f"an odd file: {inside}")


# --- datasets --------------------------------------------------------------------------------------------------


def _send_datasets(port: int, numbers: Sequence[int], answers: Answers, seed: int) -> None:
    contexts = [(str(MRImageStorage), str(syntax)) for syntax in mutate.SYNTAXES]
    peer: Wire | None = None
    for number in numbers:
        mutant = mutate.dataset(number, seed)
        try:
            if peer is None:
                peer = Wire(port, HANG_SECONDS)
                peer.associate(contexts)
            context = 2 * mutate.SYNTAXES.index(mutant.transfer_syntax_uid) + 1
            status = peer.store(context, mutant.sop_class_uid, mutant.sop_instance_uid, mutant.encoded)
        except Closed as end:
            answers.add(str(end))
            peer = None
        except TimeoutError:
            answers.add("hang", f"dataset {number} ({mutant.kind})")
            peer = None
        except OSError:
            answers.add("no connection", f"dataset {number} ({mutant.kind})")
            peer = None
        else:
            answers.add(f"0x{status:04X}")
            if status == 0:
                with answers.lock:
                    answers.stored[mutant.sop_instance_uid] = len(mutant.encoded), _digest(mutant.encoded)
    if peer is not None:
        with suppress(Closed):
            peer.release()


# --- PDUs ------------------------------------------------------------------------------------------------------


def _send_sessions(port: int, numbers: Sequence[int], answers: Answers, seed: int) -> None:
    """An association each; one in 200 keeps the connection open and is silent, and the receiver must end it."""
    for number in numbers:
        kind, pdus = mutate_pdus.session(number, seed)
        end = _send_session(port, pdus, silent=number % 200 == 7)
        answers.add(end, f"session {number} ({kind})" if end == "hang" else "")


def _send_session(port: int, pdus: Sequence[bytes], silent: bool) -> str:
    """Send it all, with or without the end of the stream; how the receiver ended it."""
    answer = "closed"
    try:
        peer = Wire(port, HANG_SECONDS)
    except OSError:
        return "hang"
    with peer:
        try:
            for number, part in enumerate(pdus):
                peer.send(part)
                if number == 0:
                    peer.wait(_ACCEPT_SECONDS)  # a PDU before the acceptance would be refused unread
            if not silent:
                peer.end_sending()
            while True:
                kind, _ = peer.receive()
                answer = {DATA: "answered", REJECTED: "rejected", ABORTED: "aborted"}.get(kind, answer)
        except Closed:
            return answer
        except TimeoutError:
            return "hang"


# --- the inference path ----------------------------------------------------------------------------------------


def mutated_files(folder: Path, count: int, seed: int = 9) -> Outcome:
    """The same mutants as files through `preprocess` and the report's reader, in a process with limited memory."""
    outcome = Outcome("mutated files through preprocess, memory limited", seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    results: Counter[str] = Counter()
    number = 0
    highest = 0
    while number < count:
        ours, theirs = multiprocessing.Pipe()
        # Not forked: a copy of a process with threads may stand still for ever.
        child = multiprocessing.get_context("spawn").Process(
            target=_preprocess_all, args=(theirs, folder, range(number, count), seed)
        )
        child.start()
        theirs.close()
        if not ours.poll(START_SECONDS) or ours.recv() != _READY:
            raise RuntimeError("the process with limited memory did not start")
        while number < count and ours.poll(HANG_SECONDS):
            try:
                result, resident = ours.recv()
            except EOFError:
                break
            results[result] += 1
            highest = max(highest, resident)
            if result.startswith("fault"):
                outcome.fault_found(f"file {number}: {result}")
            else:
                outcome.survived += 1
            number += 1
        if number < count:
            outcome.fault_found(f"file {number} ({mutate.dataset(number, seed).kind}): {_how_it_ended(child)}")
            number += 1
        child.kill()
        child.join()
    outcome.tries = count
    outcome.measured.append(", ".join(f"{name} {times}" for name, times in results.most_common()))
    outcome.measured.append(f"{highest >> 20} MiB at most")
    return outcome


def _how_it_ended(child: multiprocessing.process.BaseProcess) -> str:
    child.join(1)
    return "hang" if child.exitcode is None else f"the process died ({child.exitcode})"


def _preprocess_all(pipe: Connection, folder: Path, numbers: Sequence[int], seed: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (PIPELINE_BYTES, PIPELINE_BYTES))
    pipe.send(_READY)
    path = folder / "mutant.dcm"
    for number in numbers:
        pipe.send(
            (
                preprocess_one(mutate.dataset(number, seed), path),
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
            )
        )
    os._exit(0)


def preprocess_one(mutant: mutate.Mutant, path: Path) -> str:
    """What becomes of a file; one that the receiver refuses comes no further."""
    content = mutate.as_file(mutant)
    uids = mutant.sop_class_uid, mutant.sop_instance_uid
    try:
        read_instance(StoreRequest(*uids, mutant.transfer_syntax_uid, content, None), instance_path)
    except RefusedInstance as refused:
        return f"refused {refused.reason}"
    path.write_bytes(content)
    try:
        preprocess([path], Preprocessing(size=64))
    except NotAssessable as refusal:
        result = refusal.reason
    except Exception as fault:  # the boundary of the fuzz: anything else is a finding
        return f"fault {type(fault).__name__}"
    else:
        result = "a tensor"
    try:
        read_header(path, SOURCE_KEYWORDS)
    except Exception as fault:
        return f"fault {type(fault).__name__} in the header"
    return result
