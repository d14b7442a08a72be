"""Header bombs by C-STORE and STOW-RS, several at once: the answers, and the peak memory of their reader.

A STOW-RS request that is answered 503, since others are being stored, is repeated.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import httpx
from pydicom import Dataset
from pydicom.uid import UID, MRImageStorage

from tests.faults.bed import START_SECONDS, Outcome, files_of_rows, process_of_role, tiny_bundle
from tests.faults.fuzz import HANG_SECONDS, memory
from tests.faults.wire import Closed, Wire
from tests.testbed import bombs, worker_process
from worker.dicom.standard import CANNOT_UNDERSTAND, derive_uid
from worker.network.part10 import file_beginning

AT_ONCE = 4
_MEMORY_BYTES = 256 << 20  # of a role, for AT_ONCE bombs of 16 MiB
_BOUNDARY, _BUSY = "bomb", 503
# The transfer syntax, SOP Instance UID and dataset of a bomb → the status that is answered.
Send = Callable[[UID, str, bytes], int]


def header_bombs(folder: Path, rounds: int, at_once: int = AT_ONCE) -> Outcome:
    """Send every bomb `rounds` times by either way, `at_once` at the same time."""
    outcome = Outcome(f"{len(bombs.BOMBS)} header bombs by C-STORE and by STOW-RS, {at_once} at once")
    settings = {
        "worker": {"bundle": str(tiny_bundle()), "lease_seconds": 5},
        "receive": {"quiet_seconds": 2, "minimum_free_bytes": 0},
        "web": {"stow": True},
        "eligibility": {"minimum_slices": 100_000},
    }
    with worker_process.running(folder / "worker", settings=settings, start_seconds=START_SECONDS) as worker:
        made = worker.run("tokens", "add", "--role", "operate", "--name", "soak")
        if made.returncode != 0:
            raise RuntimeError(f"worker tokens add: {made.stderr}")
        token = made.stdout.split()[-1]
        ways: dict[str, tuple[str, Send]] = {
            "C-STORE": ("receive", lambda *bomb: _store(worker.port, *bomb)),
            "STOW-RS": ("web", lambda *bomb: _stow(worker.web_port, token, *bomb)),
        }
        processes = {way: process_of_role(worker, role) for way, (role, _) in ways.items()}
        before = {way: memory(pid)[0] for way, pid in processes.items() if pid is not None}
        acknowledged: set[str] = set()
        uids = _uids()
        peaks: dict[str, tuple[int, str]] = dict.fromkeys(ways, (0, ""))
        slowest = dict.fromkeys(ways, (0.0, ""))
        for name, (syntax, make, is_refused) in bombs.BOMBS.items():
            dataset = make()
            for way, (role, send) in ways.items():
                pid = processes[way]
                if pid is None:
                    raise RuntimeError(f"no {role} runs")
                Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is counted from now on: proc(5)
                for _ in range(rounds):
                    start = time.monotonic()
                    expected = CANNOT_UNDERSTAND if is_refused else 0
                    acknowledged |= _send_at_once(
                        outcome, f"{name} by {way}", expected, at_once,
                        lambda uid, send=send, syntax=syntax, dataset=dataset: send(  # type: ignore[misc]
                            syntax, uid, dataset.replace(bombs.SOP_INSTANCE.encode(), uid.encode())
                        ), uids,
                    )  # fmt: skip
                    slowest[way] = max(slowest[way], (time.monotonic() - start, name))
                if process_of_role(worker, role) != pid:
                    outcome.fault_found(f"{name}: the role {role} died")
                    return outcome
                peaks[way] = max(peaks[way], (memory(pid)[1], name))
        for way, (role, _) in ways.items():
            peak, name = peaks[way]
            seconds, slow = slowest[way]
            outcome.measured.append(
                f"{way}: {role} {before[way] >> 20} MiB before, {peak >> 20} at most ({name}); "
                f"slowest {at_once} answered after {seconds:.1f} s ({slow})"
            )
            if peak - before[way] > _MEMORY_BYTES:
                outcome.fault_found(f"{role} took {peak - before[way] >> 20} MiB more")
        stored = files_of_rows(worker)
        outcome.instances = len(acknowledged)
        outcome.lost = sum(not stored.get(uid) for uid in acknowledged)
        [(outcome.series,)] = worker.rows("SELECT count(*) FROM series")
    return outcome


def _uids() -> Iterator[str]:
    """UIDs as long as that of the bombs, which they replace."""
    for number in count():
        uid = derive_uid("bomb", str(number))
        if len(uid) == len(bombs.SOP_INSTANCE):
            yield uid


def _send_at_once(
    outcome: Outcome, what: str, expected: int, at_once: int, send: Callable[[str], int], uids: Iterator[str]
) -> set[str]:
    """Send one bomb `at_once` times at the same time; the UIDs that were acknowledged."""
    answers: dict[str, int | str] = {}

    def one_peer(uid: str) -> None:
        try:
            answers[uid] = send(uid)
        except (Closed, OSError, httpx.HTTPError, ValueError) as fault:
            answers[uid] = f"{type(fault).__name__}: {fault}"

    threads = [threading.Thread(target=one_peer, args=(next(uids),)) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wrong = Counter(
        f"{answer:#06x}" if isinstance(answer, int) else answer for answer in answers.values() if answer != expected
    )
    for answer, number in wrong.items():
        outcome.fault_found(f"{what}: {number} x {answer}")
    outcome.tries += at_once
    outcome.survived += at_once - wrong.total()
    return {uid for uid, answer in answers.items() if answer == 0}


def _store(port: int, syntax: UID, uid: str, dataset: bytes) -> int:
    with Wire(port, HANG_SECONDS) as peer:
        [context] = peer.associate([(MRImageStorage, syntax)])
        status = peer.store(context, MRImageStorage, uid, dataset)
        peer.release()
    return status


def _stow(port: int, token: str, syntax: UID, uid: str, dataset: bytes) -> int:
    """0 or the failure reason of the response (PS3.18 10.5.3)."""
    head = f"--{_BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    file = file_beginning(MRImageStorage, uid, syntax) + dataset
    deadline = time.monotonic() + HANG_SECONDS
    while True:
        answer = httpx.post(
            f"http://127.0.0.1:{port}/dicom-web/studies",
            content=b"".join([head, file, f"\r\n--{_BOUNDARY}--".encode()]),
            headers={
                "Authorization": f"Bearer {token}",
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={_BOUNDARY}',
                "Accept": "application/dicom+json",
            },
            timeout=HANG_SECONDS,
        )
        if answer.status_code != _BUSY or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    if answer.status_code not in (200, 202, 409):
        raise ValueError(f"HTTP {answer.status_code} {answer.text[:200]}")
    response = Dataset.from_json(answer.json())
    failures = [*response.get("FailedSOPSequence", []), *response.get("OtherFailuresSequence", [])]
    return int(failures[0].FailureReason) if failures else 0
