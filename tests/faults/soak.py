"""Faults under load, counted: `make soak` runs the long form and prints the table, pytest the short one.

Every row starts real workers and real peers, sends real series with senders that repeat what was not acknowledged,
breaks something on purpose, and then counts what was lost and what came twice. Seeds are fixed, times are bounded.

A row that is done is kept as a file in var/soak, so a run that was stopped goes on with the rows that are missing;
ONLY=name[,name] runs these again, FRESH=1 forgets all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, MappingProxyType

from tests.faults import (
    backlog,
    breakages,
    decoders,
    floods,
    frozen_roles,
    fuzz,
    header_bombs,
    hosts,
    killed_studies,
    load,
    rot,
)  # fmt: skip
from tests.faults.bed import Outcome
from tests.testbed import dcmtk, orthanc, postgres

BEGIN, END = "<!-- written by `make soak` -->", "<!-- end -->"
Scenario = Callable[[Path, float], Outcome]


@dataclass(frozen=True)
class Row:
    """A fault: how to run it at a part of its full length (1.0), how long it may take, and what it needs."""

    run: Scenario
    minutes: int
    needs: Callable[[], object] = lambda: True
    why_not: str = ""


def _of(full: int, part: float) -> int:
    return max(1, round(full * part))


ROWS: Mapping[str, Row] = {
    "kills": Row(
        lambda folder, part: breakages.killed_processes(folder, _of(200, part), _of(100, part), real_peers=True), 60
    ),
    "studies": Row(
        lambda folder, part: killed_studies.killed_studies(folder, _of(60, part), _of(100, part)), 60
    ),
    "pacs": Row(
        lambda folder, part: breakages.misbehaving_pacs(folder, _of(200, part), _of(24, part), real_peers=True), 40
    ),
    "locked": Row(lambda folder, part: breakages.locked_database(folder, _of(200, part), max(3, 30 * part)), 20),
    "disk": Row(
        lambda folder, part: breakages.full_disk(folder, _of(200, part)),
        20, breakages.can_mount, "mounting a small tmpfs takes root",
    ),
    "rot": Row(lambda folder, part: rot.rotten_files(folder, _of(200, part), _of(100, part)), 40),
    "postgresql": Row(
        lambda folder, part: breakages.restarted_database(folder, _of(200, part), _of(3, part), max(3, 30 * part)),
        40, postgres.programs, "PostgreSQL is not installed",
    ),
    "hosts": Row(
        lambda folder, part: hosts.lost_host(folder, _of(200, part), _of(20, part), real_peers=True),
        60, lambda: postgres.programs() and hosts.can_make_hosts(), "network namespaces and PostgreSQL are needed",
    ),
    "stopped": Row(
        lambda folder, part: hosts.stopped_processes(folder, _of(200, part), _of(5, part), max(6, 60 * part)), 40
    ),
    "frozen-role": Row(lambda folder, part: frozen_roles.frozen_roles(folder, _of(200, part), _of(5, part)), 60),
    "clock": Row(
        lambda folder, part: hosts.jumping_clock(folder, _of(200, part), _of(20, part)),
        40, lambda: shutil.which("cc"), "a C compiler is needed",
    ),
    "clock-postgresql": Row(
        lambda folder, part: hosts.jumping_clock(folder, _of(200, part), _of(20, part), postgresql=True),
        40, lambda: postgres.programs() and shutil.which("cc"), "a C compiler and PostgreSQL are needed",
    ),
    "datasets": Row(lambda folder, part: fuzz.hostile_bytes(folder, _of(20_000, part), 0), 120),
    "files": Row(lambda folder, part: fuzz.mutated_files(folder, _of(20_000, part)), 60),
    "pdus": Row(lambda folder, part: fuzz.hostile_bytes(folder, 0, _of(20_000, part), seed=8), 60),
    "header-bombs": Row(lambda folder, part: header_bombs.header_bombs(folder, _of(20, part)), 60),
    "floods": Row(lambda folder, part: floods.connection_floods(folder, 600 * part), 30),
    "associations": Row(lambda folder, part: load.many_associations(folder, 1800 * part), 60),
    "backlog": Row(lambda folder, part: backlog.pending_backlog(folder, _of(10_000, part), _of(20, part)), 60),
    "decoder-deaths": Row(lambda folder, part: decoders.decoder_deaths(folder, _of(6_000, part)), 120),
}  # fmt: skip


def run_row(name: str, part: float) -> Outcome:
    """The outcome of a row; one that raises or outlasts its time is a row that does not hold."""
    row, start = ROWS[name], time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"worker-soak-{name}-") as folder:
        try:
            with _at_most(row.minutes * 60):
                outcome = row.run(Path(folder), part)
        except Exception as error:  # a row's boundary: the others are run all the same
            outcome = Outcome(name, tries=1)
            outcome.fault_found(f"{type(error).__name__}: {error}".splitlines()[0])
        if not outcome.holds:
            logs = [log.read_text(errors="replace")[-1_000_000:] for log in Path(folder).rglob("worker.log")]
            (Path("var/soak") / f"{name}.log").write_text("\n".join(logs))
    outcome.seconds = time.monotonic() - start
    return outcome


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    def late(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"not done in {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- the table -------------------------------------------------------------------------------------------------


def keep(folder: Path, name: str, part: float, outcome: Outcome) -> None:
    """Write a row down, with when, of which commit and at which length it was measured."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    about = {"part": part, "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "commit": os.environ.get("COMMIT", commit)}
    (folder / f"{name}.json").write_text(json.dumps(about | {"outcome": asdict(outcome)}, indent=1) + "\n")


def table(folder: Path, earlier: Mapping[str, str] = MappingProxyType({})) -> str:
    """Every row that is known, as Markdown; `earlier`: the lines of rows that may not be in the folder, by name."""
    lines = [
        "| row | fault | tries | survived | acknowledged | series | lost | duplicated | seed | min | measured |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in ROWS:
        path = folder / f"{name}.json"
        if not path.exists():
            lines += [earlier[name]] if name in earlier else []
            continue
        kept = json.loads(path.read_text())
        one = Outcome(**kept["outcome"])
        length = "" if kept["part"] >= 1 else f" (a run of {kept['part']:.3g} of the full length)"
        told = "; ".join([*(f"**{note}**" for note in one.notes), *one.measured])
        lines.append(
            f"| {name} | {one.fault}{length} | {one.tries} | {one.survived} | {one.instances} | {one.series} "
            f"| {one.lost} | {one.duplicated} | {one.seed or '-'} | {one.seconds / 60:.1f} "
            f"| {told}{'; ' if told else ''}{kept['date']}, {kept['commit']} |"
        )
    return "\n".join(lines)


def machine() -> str:
    """What it was measured on, in a line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    peers = [name for name, there in (("DCMTK", dcmtk.installed()), ("Orthanc", orthanc.program()),
                                      ("PostgreSQL", postgres.programs())) if there]  # fmt: skip
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return (
        f"{os.cpu_count()} x {model}, {memory} GiB, Linux {platform.release()}, Python {platform.python_version()}, "
        f"real peers: {', '.join(peers) or 'none'}"
    )


def write_document(document: Path, folder: Path) -> None:
    """Replace what stands between the marks, except rows that were measured earlier and are not in the folder."""
    content = document.read_text()
    begin, end = content.index(BEGIN), content.index(END)
    written = content[begin:end].splitlines()
    earlier = {line.split("|")[1].strip(): line for line in written if line.startswith("| ")}
    machines = [f"Machine: {machine()}."]
    if any(name in ROWS and not (folder / f"{name}.json").exists() for name in earlier):
        machines += [line for line in written if line.startswith("Machine: ") and line not in machines]
    text = "\n".join((BEGIN, *machines, "", table(folder, earlier)))
    document.write_text(f"{content[:begin]}{text}\n{content[end:]}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"names with commas: {','.join(ROWS)}")
    parser.add_argument("--part", type=float, default=1.0, help="of the full length")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    parser.add_argument("--document", type=Path, help="write the table into this file")
    options = parser.parse_args(arguments)
    folder = Path("var/soak")
    folder.mkdir(parents=True, exist_ok=True)
    if options.fresh:
        for path in folder.glob("*.json"):
            path.unlink()
    names = [name for name in options.only.split(",") if name]
    if unknown := set(names) - set(ROWS):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    ran = []
    for name in names or [one for one in ROWS if not (folder / f"{one}.json").exists()]:
        if not ROWS[name].needs():
            print(f"{name}: left out, {ROWS[name].why_not}", file=sys.stderr)
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        outcome = run_row(name, options.part)
        keep(folder, name, options.part, outcome)
        ran.append(outcome)
        print(f"{name}: {'holds' if outcome.holds else 'DOES NOT HOLD'} {outcome}", file=sys.stderr, flush=True)
    print(table(folder))
    if options.document:
        write_document(options.document, folder)
    return 0 if all(one.holds for one in ran) else 1


if __name__ == "__main__":
    sys.exit(main())
