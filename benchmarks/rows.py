"""The rows that every benchmark reports: our figure, a peer's or a limit in the same run, and the goal.

A ratio is defined so that higher is better and `ratio >= goal` means reached: ours over the peer's for a rate, the
limit over ours for a time or a size.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

SKIPPED = 77  # exit code of a benchmark that cannot run here and has printed why
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Row:
    """A figure. `ratio` and `goal` are None where there is nothing to compare with; `n` is the number of repeats."""

    row: str
    ours: float | None
    unit: str
    n: int
    peer: float | None = None
    peer_name: str | None = None
    ratio: float | None = None
    goal: float | None = None
    note: str = ""


def against(row: str, ours: Sequence[float], peer: Sequence[float], peer_name: str, unit: str, goal: float) -> Row:
    """Compare rates of the same rounds: the ratio is the median of the rounds' ratios, the note its range."""
    ratios = [mine / theirs for mine, theirs in zip(ours, peer, strict=True)]
    note = f"ratio {min(ratios):.2f} to {max(ratios):.2f}"
    return Row(row, median(ours), unit, len(ours), median(peer), peer_name, median(ratios), goal, note)


def at_most(row: str, ours: Sequence[float], limit: float, unit: str, note: str = "") -> Row:
    """Compare the median of a time or a size with its upper limit."""
    spread = f"{min(ours):.3g} to {max(ours):.3g} {unit}" if len(ours) > 1 else ""
    note = "; ".join(part for part in (spread, note) if part)
    return Row(row, median(ours), unit, len(ours), limit, "limit", limit / median(ours), 1.0, note)


def at_least(row: str, ours: Sequence[float], limit: float, unit: str, note: str = "") -> Row:
    """Compare the median of a rate or a share with its lower limit."""
    spread = f"{min(ours):.4g} to {max(ours):.4g} {unit}" if len(ours) > 1 else ""
    note = "; ".join(part for part in (spread, note) if part)
    return Row(row, median(ours), unit, len(ours), limit, "limit", median(ours) / limit, 1.0, note)


def plain(row: str, ours: Sequence[float], unit: str, note: str = "") -> Row:
    """A figure without a goal."""
    return Row(row, median(ours), unit, len(ours), note=note)


def arguments(document: str | None) -> argparse.Namespace:
    """Parse `--json FILE` and `--quick`, for a benchmark without other options."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    return parser.parse_args()


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the common options; on SIGTERM the program exits, so that it stops the processes that it started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    parser.add_argument(
        "--quick", action="store_true", help="a short run that shows that it works; its figures mean nothing"
    )


def finish(title: str, rows: Sequence[Row], file: Path | None) -> None:
    """Print the rows, and write them to the file if there is one."""
    for row in rows:
        print(as_line(row), flush=True)
    if file is not None:
        file.write_text(json.dumps({"title": title, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


def as_line(row: Row) -> str:
    """A row as a line for the terminal."""
    ours = "-" if row.ours is None else f"{row.ours:.4g}"
    peer = "" if row.peer is None else f"  {row.peer_name} {row.peer:.4g}"
    ratio = "" if row.ratio is None else f"  ratio {row.ratio:.2f}"
    goal = "" if row.ratio is None or row.goal is None else f" goal {row.goal:g}{'' if reached(row) else '  MISSED'}"
    return f"{row.row:58} {ours:>9} {row.unit}{peer}{ratio}{goal}  {row.note}"


def reached(row: Row) -> bool:
    """Whether a row reaches its goal, or has none."""
    return row.ratio is None or row.goal is None or row.ratio >= row.goal


def processor_seconds(work: Callable[[], object]) -> tuple[float, float]:
    """(elapsed, processor) seconds of a call; processor time of all threads of this process."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def processor_seconds_of(pid: int) -> float:
    """User and system time of a process and of its ended children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0))
