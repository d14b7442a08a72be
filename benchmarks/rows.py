"""What every benchmark reports: rows that say what we do, what a peer or a limit does in the same run, and the goal.

A ratio is made so that more is better and `ratio >= goal` is reached: ours over the peer's for a rate, the limit over
ours for a time or a size.
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


@dataclass(frozen=True, slots=True)
class Row:
    """`ratio` and `goal` are None where there is nothing to compare with; `n` is how often it was measured."""

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
    """Rates of the same rounds: the ratio is the median of the rounds' ratios, the note its spread."""
    ratios = [mine / theirs for mine, theirs in zip(ours, peer, strict=True)]
    note = f"ratio {min(ratios):.2f} to {max(ratios):.2f}"
    return Row(row, median(ours), unit, len(ours), median(peer), peer_name, median(ratios), goal, note)


def at_most(row: str, ours: Sequence[float], limit: float, unit: str, note: str = "") -> Row:
    """A time or a size that has a limit: the median of the repeats counts."""
    spread = f"{min(ours):.3g} to {max(ours):.3g} {unit}" if len(ours) > 1 else ""
    note = "; ".join(part for part in (spread, note) if part)
    return Row(row, median(ours), unit, len(ours), limit, "limit", limit / median(ours), 1.0, note)


def at_least(row: str, ours: Sequence[float], limit: float, unit: str, note: str = "") -> Row:
    """A rate or a share that must reach a limit."""
    spread = f"{min(ours):.4g} to {max(ours):.4g} {unit}" if len(ours) > 1 else ""
    note = "; ".join(part for part in (spread, note) if part)
    return Row(row, median(ours), unit, len(ours), limit, "limit", median(ours) / limit, 1.0, note)


def plain(row: str, ours: Sequence[float], unit: str, note: str = "") -> Row:
    """A figure that is told and not judged."""
    return Row(row, median(ours), unit, len(ours), note=note)


def arguments(document: str | None) -> argparse.Namespace:
    """`--json FILE` and `--quick`, for a benchmark that has no other options."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    return parser.parse_args()


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options; and a program that is told to end stops the processes that it started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument(
        "--quick", action="store_true", help="as little as shows that it works; the figures mean nothing"
    )


def finish(title: str, rows: Sequence[Row], file: Path | None) -> None:
    """Print the rows, and write them where a file is asked for."""
    for one in rows:
        print(shown(one), flush=True)
    if file is not None:
        file.write_text(json.dumps({"title": title, "rows": [asdict(one) for one in rows]}, indent=1) + "\n")


def shown(one: Row) -> str:
    """One line for a terminal."""
    ours = "-" if one.ours is None else f"{one.ours:.4g}"
    peer = "" if one.peer is None else f"  {one.peer_name} {one.peer:.4g}"
    ratio = "" if one.ratio is None else f"  ratio {one.ratio:.2f}"
    goal = "" if one.ratio is None or one.goal is None else f" goal {one.goal:g}{'' if reached(one) else '  MISSED'}"
    return f"{one.row:58} {ours:>9} {one.unit}{peer}{ratio}{goal}  {one.note}"


def reached(one: Row) -> bool:
    return one.ratio is None or one.goal is None or one.ratio >= one.goal


def processor_seconds(work: Callable[[], object]) -> tuple[float, float]:
    """(elapsed, processor) seconds of a call in this process, all of its threads."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def cores() -> int:
    """Those this process may run on."""
    return len(os.sched_getaffinity(0))
