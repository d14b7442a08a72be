"""Series a second against the MONAI Deploy App SDK, from the files of a series to its report.

    PYTHONPATH=. python benchmarks/monai_deploy.py --peer-python ENVIRONMENT/bin/python
    MONAI_DEPLOY_PYTHON=ENVIRONMENT/bin/python make bench ONLY=monai_deploy

ours  `worker serve --role infer`, one process of one thread, from claim to commit (see scale.py): default model, checks
      of the input, coded report with references to the images, picture with the map
peer  monai_deploy_app.py, one process of one thread in the SDK's own environment: loader, selector, conversion to a
      volume, MONAI's DenseNet121, text SR, in the graph that Holoscan runs, without a queue or a database

Both are warm and take turns on series of the same slices. docs/performance.md describes how to make the environment;
without one the program is skipped. The goal is that of the network for each slice at 224 x 224 pixels; the rows for the
size of our network and for a network that sees the series as one small volume have none.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from pydicom import dcmread

from benchmarks.latency import DIFFERENT, write_series
from benchmarks.rows import SKIPPED, Row, add_common, against, finish, processor_seconds_of
from benchmarks.scale import Site
from tests.testbed.phantom import Grid, head_series
from worker.logs import configure_logs


@dataclass(frozen=True, slots=True)
class Load:
    slices: int
    series: int  # for ours in a round; the peer gets one
    rounds: int


APP = Path(__file__).with_name("monai_deploy_app.py")
GOAL = 10.0
NETWORKS = {  # argument of monai_deploy_app.py → name and goal
    "2x224": ("DenseNet121 for each slice, 224 pixels", GOAL),
    "2x160": ("DenseNet121 for each slice, 160 pixels", None),
    "3x96": ("DenseNet121 for the volume, 96 voxels", None),
}
LOADS = (Load(24, 6, 5), Load(200, 2, 3))
ASK = """import sysconfig, importlib.metadata as metadata
print(sysconfig.get_path("purelib"))
print(metadata.version("monai-deploy-app-sdk"))"""


@dataclass(slots=True)
class Cell:
    """What a program did in each round."""

    rates: list[float] = field(default_factory=list)  # series per second
    work: list[float] = field(default_factory=list)  # processor seconds of a series
    stages: list[Mapping[str, float]] = field(default_factory=list)  # of each series, seconds

    def measure(self, pid: int, series: int, work: Callable[[], object]) -> None:
        """Run `work`, while the process `pid` classifies `series` series; record their rate and processor time."""
        before, begin = processor_seconds_of(pid), time.perf_counter()
        work()
        self.rates.append(series / (time.perf_counter() - begin))
        self.work.append((processor_seconds_of(pid) - before) / series)


class Peer:
    """A running monai_deploy_app.py; `command` is given the folder of its reports and the network."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, network: str) -> None:
        folder.mkdir()
        self.folder, self.log, self.answered = folder, folder / "log.txt", 0
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, str(folder), network], env={**os.environ, **environment},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip

    def classify(self, series: Path) -> dict[str, float]:
        """The seconds of each stage of a series. Raises RuntimeError when the program has ended."""
        line = ""
        if self.process.stdin is not None and self.process.stdout is not None:
            with suppress(BrokenPipeError):
                print(series, file=self.process.stdin, flush=True)
                line = self.process.stdout.readline()
        if not line:
            last = self.log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise RuntimeError(f"the peer ended with {self.process.wait(30)}: {last}")
        self.answered += 1
        seconds: dict[str, float] = json.loads(line)
        return seconds

    def require_reports(self) -> None:
        """Raise RuntimeError unless there is a report for each series."""
        if (reports := len(list(self.folder.glob("*.dcm")))) != self.answered:
            raise RuntimeError(f"the peer wrote {reports} reports for {self.answered} series")


@contextmanager
def running_peer(command: Sequence[str], environment: Mapping[str, str], folder: Path, network: str) -> Iterator[Peer]:
    peer = Peer(command, environment, folder, network)
    try:
        yield peer
        peer.require_reports()
    finally:
        with suppress(BrokenPipeError), peer.process:  # closes its pipes and waits
            peer.process.terminate()


def compare(folder: Path, python: Path, libraries: Path, load: Load) -> tuple[Cell, dict[str, Cell]]:
    """Ours, and the peer with each network, in turn."""
    command = [str(python), "-W", "ignore", str(APP)]
    environment = {"LD_LIBRARY_PATH": str(libraries), "OMP_NUM_THREADS": "1"}
    ours, peers = Cell(), {network: Cell() for network in NETWORKS}
    site = Site(folder / "ours")
    site.fill((load.rounds + 1) * load.series, load.slices)
    drawn = [dcmread(file) for file in head_series(folder / "drawn", grid=Grid(slices=DIFFERENT))]
    sent = folder / "sent"
    write_series(sent, drawn, load.slices)
    with ExitStack() as stack:
        [process] = stack.enter_context(site.processes(1))
        running = {
            network: stack.enter_context(running_peer(command, environment, folder / network, network))
            for network in peers
        }
        site.rate(load.series)  # warm up
        for peer in running.values():
            for _ in range(2):  # TorchScript takes a profile first, then compiles
                peer.classify(sent)
        for _ in range(load.rounds):
            ours.measure(process.pid, load.series, lambda: site.rate(load.series))
            for network, cell in peers.items():
                peer = running[network]
                cell.measure(peer.process.pid, 1, lambda cell=cell, peer=peer: cell.stages.append(peer.classify(sent)))
    site.database.close()
    return ours, peers


def row(slices: int, network: str, ours: Cell, peer: Cell) -> Row:
    name, goal = NETWORKS[network]
    compared = against(
        f"series of {slices} slices a second, MONAI Deploy", ours.rates, peer.rates, name, "series/s", GOAL
    )
    stages = ", ".join(f"{stage} {1000 * median(each[stage] for each in peer.stages):.0f}" for stage in peer.stages[0])
    work = f"processor time {1000 * median(ours.work):.0f} against {1000 * median(peer.work):.0f} ms"
    return replace(compared, goal=goal, note=f"{compared.note}; {work}; the peer's ms: {stages}")


def libraries_and_version(python: Path) -> tuple[Path, str]:
    """Where the peer's CUDA runtime is, without which Holoscan does not load, and the version of the SDK.

    Raises RuntimeError when the interpreter has no SDK.
    """
    asked = subprocess.run([python, "-c", ASK], capture_output=True, text=True, check=False)
    if asked.returncode:
        raise RuntimeError(f"{python} has no MONAI Deploy App SDK: {asked.stderr.strip().rpartition(chr(10))[2]}")
    packages, version = asked.stdout.split("\n")[:2]
    return Path(packages) / "nvidia" / "cu13" / "lib", version


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument("--peer-python", type=Path, metavar="FILE", help="the interpreter of the SDK's environment",
                        default=os.environ.get("MONAI_DEPLOY_PYTHON") or None)  # fmt: skip
    chosen = parser.parse_args(arguments)
    if chosen.peer_python is None:
        print("monai_deploy: skipped, neither --peer-python nor MONAI_DEPLOY_PYTHON is given")
        return SKIPPED
    libraries, version = libraries_and_version(chosen.peer_python)
    configure_logs("ERROR")
    rows = []
    for load in LOADS[:1] if chosen.quick else LOADS:
        with tempfile.TemporaryDirectory() as name:
            ours, peers = compare(
                Path(name), chosen.peer_python, libraries, replace(load, rounds=1) if chosen.quick else load
            )
        rows += [row(load.slices, network, ours, peer) for network, peer in peers.items()]
    finish(f"MONAI Deploy App SDK {version}", rows, chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
