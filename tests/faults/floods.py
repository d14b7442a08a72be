"""Connection floods: one address holds every connection that it can get, while two senders go on sending."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom.sop_class import Verification

from tests.faults import mutate
from tests.faults.bed import START_SECONDS, Outcome, process_of_role, tiny_bundle
from tests.faults.fuzz import HANG_SECONDS, memory
from tests.faults.wire import ACCEPTED, Closed, Wire, associate_request, data_pdus, echo_command
from tests.testbed import worker_process
from tests.testbed.instances import mr_instance

SILENT, IDLE = 200, 100
_ECHO = [(str(Verification), str(ImplicitVRLittleEndian))]
_ECHO_SECONDS = 2.0
_MEMORY_BYTES = 96 << 20
_OTHER_ADDRESS = "127.0.0.2"


def connection_floods(folder: Path, seconds: float) -> Outcome:
    """Silent connections and idle associations from one address; a known peer there and a stranger elsewhere send."""
    outcome = Outcome(f"{SILENT} silent connections and {IDLE} idle associations that are renewed, {seconds:g} s")
    settings = {
        "worker": {"bundle": str(tiny_bundle()), "lease_seconds": 5},
        "receive": {"quiet_seconds": 2, "minimum_free_bytes": 0, "request_seconds": 2, "yield_seconds": 2},
        "eligibility": {"minimum_slices": 100_000},
    }
    known = {"pacs": ("PACS", 104)}
    with worker_process.running(
        folder / "worker", destinations=known, settings=settings, start_seconds=START_SECONDS
    ) as worker:
        pid = process_of_role(worker, "receive")
        if pid is None:
            raise RuntimeError("no receiver runs")
        before, processor, start = memory(pid)[0], _processor_seconds(pid), time.monotonic()
        acknowledged: set[str] = set()
        with _flood(worker.port):
            time.sleep(1)
            while time.monotonic() - start < seconds:
                for calling, address in ((b"PACS", "127.0.0.1"), (b"MODALITY", _OTHER_ADDRESS)):
                    outcome.tries += 1
                    uid = _send(worker.port, outcome.tries, calling, address)
                    if uid is None:
                        outcome.fault_found(f"{calling.decode()} was not served")
                    else:
                        outcome.survived += 1
                        acknowledged.add(uid)
                time.sleep(0.2)
            threads = len(os.listdir(f"/proc/{pid}/task"))
        used = (_processor_seconds(pid) - processor) / (time.monotonic() - start)
        grown = memory(pid)[0] - before
        outcome.measured.append(
            f"{threads} threads, {used:.2f} of a core, memory {before >> 20} MiB, then {grown >> 20} MiB more"
        )
        if grown > _MEMORY_BYTES:
            outcome.fault_found(f"memory grew by {grown >> 20} MiB")
        rows = worker.rows("SELECT sop_instance_uid, path, size FROM instance")
        stored = {uid for uid, path, size in rows if (worker.data / path).stat().st_size == size}
        outcome.instances = len(acknowledged)
        outcome.lost, outcome.duplicated = len(acknowledged - stored), len(rows) - len({uid for uid, _, _ in rows})
        outcome.series = 1
    return outcome


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _send(port: int, number: int, calling: bytes, address: str) -> str | None:
    """Send an instance in an association of its own; its UID once it is acknowledged."""
    ds = mr_instance(number, "flood")
    content, syntax = mutate.encode(ds, str(ExplicitVRLittleEndian)), str(ExplicitVRLittleEndian)
    try:
        with Wire(port, HANG_SECONDS, source=address) as peer:
            peer.send(associate_request([(str(MRImageStorage), syntax)], calling=calling))
            if peer.receive()[0] != ACCEPTED or peer.store(1, str(MRImageStorage), str(ds.SOPInstanceUID), content):
                return None
            peer.release()
    except (Closed, OSError):
        return None
    return str(ds.SOPInstanceUID)


@contextmanager
def _flood(port: int) -> Iterator[None]:
    stop = threading.Event()
    threads = [threading.Thread(target=flood, args=(port, stop)) for flood in (_stay_silent, _stay_idle)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _stay_silent(port: int, stop: threading.Event) -> None:
    held: list[socket.socket] = []
    while not stop.wait(0.05):
        ended = set(select.select(held, [], [], 0)[0]) if held else set()
        for connection in ended:
            connection.close()
        held = [connection for connection in held if connection not in ended]
        held += [socket.create_connection(("127.0.0.1", port)) for _ in range(min(20, SILENT - len(held)))]
    for connection in held:
        connection.close()


def _stay_idle(port: int, stop: threading.Event) -> None:
    """Associations under many titles that echo now and then; those that end are requested again."""
    held: list[Wire] = []
    number, next_echo = 0, 0.0
    while not stop.wait(0.1):
        for _ in range(min(5, IDLE - len(held))):
            number += 1
            peer = Wire(port, HANG_SECONDS)
            try:
                peer.send(associate_request(_ECHO, calling=b"HOG%d" % (number % 1000)))
                if peer.receive()[0] == ACCEPTED:
                    held.append(peer)
                    continue
            except (Closed, OSError):
                pass
            peer.close()
        if time.monotonic() >= next_echo:
            next_echo = time.monotonic() + _ECHO_SECONDS
            held = [peer for peer in held if _is_alive(peer)]
    for peer in held:
        peer.close()


def _is_alive(peer: Wire) -> bool:
    try:
        for part in data_pdus(1, echo_command(), command=True):
            peer.send(part)
        peer.receive()
    except (Closed, OSError):
        peer.close()
        return False
    return True
