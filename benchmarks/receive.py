"""Receiving by C-STORE, durable and indexed, compared with Orthanc and DCMTK's storescp.

    PYTHONPATH=. python benchmarks/receive.py               # some minutes, on an idle machine
    PYTHONPATH=. python benchmarks/receive.py --rounds 3 --folder /var/tmp --json receive.json

For each cell of the table a receiver is started with an empty folder on the disk of `--folder`. DCMTK's storescu
(`-R -xe +sd +r`, TCP_NODELAY=1) sends it a load over one association, or as four senders at once. The receivers take
turns, so that other work on the machine affects all of them. Each gets a series of 24 first: what happens once after a
start is not what receiving costs (benchmarks/start.py has the start). The figure is instances per second from the start
of the first storescu to the end of the last, with the start of the sender and its scan of the folder; a cell counts
only when the receiver then holds every instance.

ours      `worker serve --role receive`, SQLite: answered after fsync of file and folder and the commit of the row
Orthanc   Debian's, with the settings of tests/testbed/orthanc.py: SQLite index, SyncStorageArea on (the default: fsync
          of each file), OverwriteInstances on; its index is committed without fsync (synchronous=NORMAL)
storescp  DCMTK's, one process for each association (--fork), `+B` writes the bytes as received: no index, no fsync
bare      pynetdicom's AE with a handler that writes the encoded dataset: no index, no fsync
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.rows import Row, add_common, against, finish, processor_seconds_of
from tests.testbed import dcmtk, orthanc
from tests.testbed.dcmtk import free_port, wait_for_port
from tests.testbed.instances import encoded, mr_instance
from tests.testbed.waiting import wait_until
from tests.testbed.worker_process import COMMAND, WorkerProcess

SENDERS = 4
FIRST = 24  # instances of the series that is not measured
SENDING = ("-R", "-xe", "+sd", "+r", "-aec", "AI_WORKER")


@dataclass(frozen=True)
class Load:
    """Instances to send, and the size of their images."""

    name: str
    files: int
    side: int  # pixels


LOADS = (Load("384 x 212 kB", 384, 325), Load("600 x 25 kB", 600, 110))
GOALS = {  # receiver, senders and load → ratio
    ("Orthanc", 1, LOADS[0].name): 1.3,
    ("Orthanc", 1, LOADS[1].name): 1.3,
    ("Orthanc", SENDERS, LOADS[0].name): 1.4,
    ("Orthanc", SENDERS, LOADS[1].name): 1.3,
    ("storescp", SENDERS, LOADS[0].name): 0.75,
    ("storescp", SENDERS, LOADS[1].name): 0.75,
}


@dataclass(frozen=True)
class Running:
    """A running receiver: its port, its process, and the number of instances it holds."""

    port: int
    pid: int
    held: Callable[[], int]


Receiver = Callable[[Path], AbstractContextManager[Running]]


@dataclass
class Cell:
    """The measurements of a receiver under a load."""

    rates: list[float] = field(default_factory=list)  # instances a second
    work: list[float] = field(default_factory=list)  # processor time per instance in milliseconds

    def summary(self) -> str:
        low, high = min(self.rates), max(self.rates)
        return f"{median(self.rates):7.0f} ({low:.0f}-{high:.0f}) {median(self.work):6.2f}"


# --- the receivers ---------------------------------------------------------------------------------------------


@contextmanager
def ours(folder: Path) -> Iterator[Running]:
    worker = WorkerProcess(folder, settings={"receive": {"quiet_seconds": 600}})
    worker.write_config()
    migrated = worker.run("migrate")
    if migrated.returncode != 0:
        raise RuntimeError(migrated.stderr)
    command = [*COMMAND, "serve", "--role", "receive", "--config", str(worker.config)]
    with _process(command, worker.port, folder) as process:
        wait_until(lambda: '"receiving"' in (folder / "log").read_text(), "the worker to say that it receives")
        yield Running(worker.port, process.pid, lambda: int(worker.rows("SELECT count(*) FROM instance")[0][0]))


@contextmanager
def orthanc_(folder: Path) -> Iterator[Running]:
    with orthanc.running(folder, 1, ae_title="AI_WORKER") as pacs:
        yield Running(pacs.port, pacs.pid, lambda: len(list((folder / "storage").glob("??/??/*"))))


@contextmanager
def storescp(folder: Path) -> Iterator[Running]:
    port = free_port()
    command = [dcmtk.command("storescp"), "--fork", "+B", "+xa", "-aet", "AI_WORKER", "-od", str(folder), str(port)]
    with _process(command, port, folder) as process:
        yield Running(port, process.pid, lambda: len(list(folder.glob("MR*"))))


@contextmanager
def bare(folder: Path) -> Iterator[Running]:
    port = free_port()
    with _process([sys.executable, __file__, "--bare", str(port)], port, folder) as process:
        yield Running(port, process.pid, lambda: len(list(folder.glob("*.dcm"))))


def serve_bare(port: int) -> None:
    """Run pynetdicom, which writes each instance to the working folder, until the process is terminated."""
    from pynetdicom import AE, AllStoragePresentationContexts, evt

    def keep(event: evt.Event) -> int:
        Path(f"{event.request.AffectedSOPInstanceUID}.dcm").write_bytes(event.encoded_dataset())
        return 0

    ae = AE(ae_title="AI_WORKER")
    ae.maximum_pdu_size = 1 << 20
    ae.supported_contexts = AllStoragePresentationContexts
    ae.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, keep)])


@contextmanager
def _process(command: Sequence[str], port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, "TCP_NODELAY": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
    try:
        wait_for_port(port, process, 60)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


RECEIVERS: Mapping[str, Receiver] = {"ours": ours, "Orthanc": orthanc_, "storescp": storescp, "bare pynetdicom": bare}


# --- measuring -------------------------------------------------------------------------------------------------


def make_load(folder: Path, load: Load) -> tuple[Path, list[Path]]:
    """Write a folder with the first series, and one with a series for each sender."""
    first, *others = (folder / load.name.replace(" ", "") / str(sender) for sender in range(SENDERS + 1))
    _write_series(first, load.side, 0, FIRST)
    for sender, other in enumerate(others, start=1):
        _write_series(other, load.side, sender, load.files // SENDERS)
    return first, others


def _write_series(folder: Path, side: int, seed: int, files: int) -> None:
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(seed).integers(0, 4000, (side, side), np.uint16)
    for number in range(1, files + 1):
        ds = mr_instance(number, f"{side}-{seed}", Rows=side, Columns=side, PixelData=np.roll(pixels, number).tobytes())
        (folder / f"{number:04d}.dcm").write_bytes(encoded(ds))


def send(running: Running, loads: Sequence[Sequence[Path]]) -> float:
    """Send with a sender for each list of folders; seconds until the last has finished."""
    start = time.perf_counter()
    storescu = dcmtk.command("storescu")
    senders = [
        subprocess.Popen(
            [storescu, *SENDING, "-aet", f"PACS{number}", "127.0.0.1", str(running.port), *map(str, folders)],
            env={**os.environ, "TCP_NODELAY": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for number, folders in enumerate(loads)
    ]  # fmt: skip
    if any([sender.wait() for sender in senders]):  # with a time limit, wait() would look 20 times a second only
        raise RuntimeError("a sender failed")
    return time.perf_counter() - start


def measure(
    receiver: Receiver, folder: Path, first: Path, sent: Sequence[Sequence[Path]], files: int, cell: Cell
) -> None:
    folder.mkdir()
    try:
        with receiver(folder) as running:
            send(running, [[first]])
            before = processor_seconds_of(running.pid)
            seconds = send(running, sent)
            work = processor_seconds_of(running.pid) - before
            if (held := running.held() - FIRST) != files:
                raise RuntimeError(f"{held} of {files} instances were stored")
    finally:
        shutil.rmtree(folder)
    cell.rates.append(files / seconds)
    cell.work.append(1000 * work / files)


def run(folder: Path, loads: Sequence[Load], rounds: int, only: Sequence[str]) -> dict[tuple[Load, int, str], Cell]:
    cells: dict[tuple[Load, int, str], Cell] = {}
    for load in loads:
        first, folders = make_load(folder, load)
        for senders in (1, SENDERS):
            sent = [folders] if senders == 1 else [[folder_] for folder_ in folders]
            for _ in range(rounds):
                for name, receiver in RECEIVERS.items():
                    if not only or name in only:
                        cell = cells.setdefault((load, senders, name), Cell())
                        measure(receiver, folder / "receiver", first, sent, load.files, cell)
            for name in RECEIVERS:
                if (load, senders, name) in cells:
                    title = f"{load.name}, {senders} sender{'s' * (senders > 1)}"
                    print(f"{title:28} {name:16} {cells[load, senders, name].summary()}", flush=True)
    return cells


def rows(cells: Mapping[tuple[Load, int, str], Cell]) -> list[Row]:
    """Our figures against each peer's; a ratio is the median of the ratios of the rounds."""
    result = []
    for (load, senders, name), cell in cells.items():
        mine = cells.get((load, senders, "ours"))
        if name == "ours" or mine is None:
            continue
        title = f"receive {load.name}, {'one association' if senders == 1 else f'{senders} senders'}"
        goal = GOALS.get((name, senders, load.name))
        row = against(title, mine.rates, cell.rates, name, "instances/s", goal or 0.0)
        work = f"processor time an instance {median(mine.work):.2f} against {median(cell.work):.2f} ms"
        result.append(replace(row, goal=goal, note=f"{row.note}; {work}"))
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk to be measured, not a tmpfs")
    parser.add_argument("--only", action="append", default=[], choices=list(RECEIVERS), help="these receivers")
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    add_common(parser)
    arguments = parser.parse_args()
    if arguments.bare:
        serve_bare(arguments.bare)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    loads = [replace(load, files=8) for load in LOADS] if arguments.quick else LOADS
    print(f"{'':45}  instances/s (range)  ms of processor an instance")
    with tempfile.TemporaryDirectory(prefix="worker-receive-", dir=arguments.folder) as folder:
        cells = run(Path(folder), loads, 1 if arguments.quick else arguments.rounds, arguments.only)
    finish("Receive", rows(cells), arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
