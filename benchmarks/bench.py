"""Runs every benchmark and writes docs/performance.md: `make bench`.

    PYTHONPATH=. python benchmarks/bench.py                      # an hour or so, on an otherwise idle machine
    PYTHONPATH=. python benchmarks/bench.py --only start,scale   # these; the others' figures stay as they were
    PYTHONPATH=. python benchmarks/bench.py --quick --out /tmp/bench   # shows that it works; the figures mean nothing

The figures are kept in performance.json with when and where each program ran; performance.md gets them between its
marks, and performance.svg shows what part of each goal is reached. Exits 1 when a program fails, not when a
goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, cores, reached, shown

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("receive", "classify", "latency", "start", "scale", "query_million", "training_throughput")
BEGIN, END = "<!-- figures: written by `make bench` -->", "<!-- end of figures -->"
WATTS_A_CORE = 12.5  # assumed: a server of 32 cores that takes 400 W under load, all of it counted
_SAMPLE_SECONDS = 3.0
_BUSY = 0.25  # processors
_DRAWN = 10  # rows of a program in the plot
COSTED = {slices: f"series of {slices} slices a second and core" for slices in (24, 200)}  # rows of scale.py

Found = dict[str, dict[str, Any]]  # program → title, rows, and when and where it ran


def run(program: Path, quick: bool) -> dict[str, Any] | None:
    """What the program wrote, with where and when; None, said on standard error, when it wrote nothing."""
    load = busy_processors(_SAMPLE_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, "-W", "ignore", str(program), "--json", str(file), *(["--quick"] if quick else [])]
        began = time.monotonic()
        code = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False).returncode
        if not file.is_file():
            print(f"{program.stem}: exit code {code}, no figures", file=sys.stderr)
            return None
        found: dict[str, Any] = json.loads(file.read_text())
    return found | {"machine": machine(), "load": load, "quick": quick, "seconds": round(time.monotonic() - began),
                    "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "commit": commit()}  # fmt: skip


def busy_processors(seconds: float) -> float:
    """Processors that others keep busy now. The load average would still tell of the program that ran before."""

    def ticks() -> tuple[int, int]:
        numbers = [int(one) for one in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(numbers), numbers[3] + numbers[4]  # idle, and waiting for a disk

    before = ticks()
    time.sleep(seconds)
    after = ticks()
    total, idle = after[0] - before[0], after[1] - before[1]
    return cores() * (total - idle) / max(1, total)


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{cores()} cores of {_processor()}, {memory:.0f} GiB, {system}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    kinds = [name for flag, name in (("avx512_vnni", "AVX-512 VNNI"), ("amx_int8", "AMX")) if flag in flags]
    return f"{named[0] if named else platform.machine()} ({', '.join(kinds) or 'no int8 instructions'})"


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


# --- the document -----------------------------------------------------------------------------------------------


def document(found: Found) -> str:
    """The part between the marks."""
    parts = ["![How much of each goal is reached](performance.svg)"]
    for one in found.values():
        rows = [Row(**row) for row in one["rows"]]
        parts += [f"### {one['title']}", _where(one), _table(rows)]
        notes = [f"- {row.row}: {row.note}" for row in rows if row.note]
        if notes:
            parts.append("\n".join(notes))
    parts += ["### Cost", cost([Row(**row) for one in found.values() for row in one["rows"]])]
    return "\n\n".join(parts)


def _where(one: Mapping[str, Any]) -> str:
    busy = f"; **{one['load']:.1f} processors were busy with other work: times say little, ratios not much more**"
    quick = "; **a quick run, whose figures mean nothing**" if one["quick"] else ""
    return f"{one['at']}, commit {one['commit']}, {one['machine']}{busy if one['load'] > _BUSY else ''}{quick}"


def _table(rows: Sequence[Row]) -> str:
    lines = ["| | ours | beside it | ratio | goal | |", "|---|---|---|---|---|---|"]
    for one in rows:
        peer = f"{_number(one.peer)} {one.peer_name}" if one.peer is not None else ""
        judged = "" if one.ratio is None or one.goal is None else ("reached" if reached(one) else "**missed**")
        ratio, goal = ("" if value is None else f"{value:.2f}" for value in (one.ratio, one.goal))
        lines.append(f"| {one.row} | {_number(one.ours)} {one.unit} | {peer} | {ratio} | {goal} | {judged} |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


def cost(rows: Sequence[Row]) -> str:
    """Series a day and core and a watt-hour, from the measured rates of one inference process of one thread."""
    rates = {one.row: one.ours for one in rows}
    lines = ["| series | a day and core | a watt-hour |", "|---|---|---|"]
    for slices, name in COSTED.items():
        if rate := rates.get(name):
            lines.append(f"| {slices} slices | {86400 * rate:,.0f} | {3600 * rate / WATTS_A_CORE:,.0f} |")
    assumed = f"Assumed, not measured: {WATTS_A_CORE:g} W a core, which is a server of 32 cores that takes 400 W."
    return "\n".join(lines) + f"\n\n{assumed} Reading, classifying, report and picture are counted; receiving is not."


def insert(text: str, figures: str) -> str:
    """A hand-written text with the part between its marks replaced; without marks they are put at its end."""
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n".lstrip()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}"


def plot(found: Found, file: Path) -> None:
    """A bar a row that has a goal: its ratio as a part of the goal, cut at three times; of many alike, the lowest."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams |= {"svg.hashsalt": "performance", "svg.fonttype": "none"}  # the same figures give the same file
    judged = [one for program in found.values() for one in _judged(program)]
    figure, axes = pyplot.subplots(figsize=(9, 0.6 + 0.26 * max(1, len(judged))), layout="constrained")
    names = [f"{one.row} ({one.peer_name})" if one.peer_name != "limit" else one.row for one, _ in judged]
    places = range(len(judged))
    axes.barh(places, [min(part, 3.0) for _, part in judged],
              color=["#2a7f62" if part >= 1 else "#b5532a" for _, part in judged])  # fmt: skip
    for place, (_, part) in enumerate(judged):
        axes.text(min(part, 3.0) + 0.03, place, f"{part:.2f}", va="center", fontsize=8)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set(yticks=places, xlim=(0, 3.3), xlabel="part of the goal that is reached (1 = the goal)")
    axes.set_yticklabels(names, fontsize=8)
    axes.set_ylim(len(judged) - 0.4, -0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _judged(program: Mapping[str, Any]) -> list[tuple[Row, float]]:
    rows = [Row(**row) for row in program["rows"]]
    judged = [(one, one.ratio / one.goal) for one in rows if one.ratio is not None and one.goal]
    if len(judged) <= _DRAWN:
        return judged
    lowest = sorted(judged, key=lambda one: one[1])[:_DRAWN]
    return [one for one in judged if one in lowest]


def write(found: Found, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "performance.json").write_text(json.dumps(found, indent=1) + "\n")
    plot(found, out / "performance.svg")
    page = out / "performance.md"
    page.write_text(insert(page.read_text() if page.is_file() else "", document(found)))


def main(arguments: Sequence[str] | None = None, programs: Sequence[Path] | None = None) -> int:
    """`programs` are those of PROGRAMS beside this file unless a test brings its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names of programs, with commas between")
    parser.add_argument("--quick", action="store_true", help="as little as shows that it works; give --out as well")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="the folder of performance.md")
    chosen = parser.parse_args(arguments)
    programs = programs or [ROOT / "benchmarks" / f"{name}.py" for name in PROGRAMS]
    names = chosen.only.split(",") if chosen.only else [one.stem for one in programs]
    if unknown := set(names) - {one.stem for one in programs}:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    if chosen.quick and chosen.out == ROOT / "docs":
        parser.error("a quick run says nothing about performance: give --out")
    kept = chosen.out / "performance.json"
    before: Found = json.loads(kept.read_text()) if kept.is_file() else {}
    failed = []
    for program in programs:
        if program.stem not in names:
            continue
        print(f"\n{program.stem}", flush=True)
        if (figures := run(program, chosen.quick)) is None:
            failed.append(program.stem)
            continue
        before[program.stem] = figures
        write({one.stem: before[one.stem] for one in programs if one.stem in before}, chosen.out)
    rows = [Row(**row) for name in names if name in before for row in before[name]["rows"]]
    missed = [one for one in rows if not reached(one)]
    print(f"\n{len(rows)} rows, {len(missed)} goals missed", *map(shown, missed), sep="\n")
    if failed:
        print(f"without figures: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
