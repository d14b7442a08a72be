"""Runs every benchmark and writes docs/performance.md: `make bench`.

    PYTHONPATH=. python benchmarks/bench.py                      # about an hour, on an otherwise idle machine
    PYTHONPATH=. python benchmarks/bench.py --only start,scale   # these; the figures of the others stay
    PYTHONPATH=. python benchmarks/bench.py --quick --out /tmp/bench   # shows that it works; the figures mean nothing

The figures are stored in performance.json with date, commit and machine of each program, written between the marks of
performance.md, and drawn as parts of their goals in performance.svg. Those of another kind of processor stay: a column
has their ratios. Exits 1 when a program fails, not when a goal is missed.
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
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks.rows import SKIPPED, Row, as_line, cores, reached

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("receive", "classify", "latency", "start", "scale", "bulk", "query_million", "defences",
            "training_throughput", "monai_deploy")  # fmt: skip
BEGIN, END = "<!-- figures: written by `make bench` -->", "<!-- end of figures -->"
WATTS_A_CORE = 12.5  # assumed: a server of 32 cores that draws 400 W under load
_SAMPLE_SECONDS = 3.0
_BUSY = 0.25  # processors busy with other work, above which the document warns
_DRAWN = 10  # rows of a program in the plot at most
COSTED = {slices: f"series of {slices} slices a second and core" for slices in (24, 200)}  # rows of scale.py

Figures = dict[str, dict[str, Any]]  # program → title, rows, when and where it ran, "elsewhere": a list of the same


def run(program: Path, quick: bool) -> dict[str, Any] | None:
    """Run a program: what it wrote, with date, commit and machine.

    Empty when the program was skipped; None, with a message, when it wrote nothing.
    """
    load = busy_processors(_SAMPLE_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, "-W", "ignore", str(program), "--json", str(file), *(["--quick"] if quick else [])]
        start = time.monotonic()
        code = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False).returncode
        if code == SKIPPED:
            return {}
        if not file.is_file():
            print(f"{program.stem}: exit code {code}, no figures", file=sys.stderr)
            return None
        written: dict[str, Any] = json.loads(file.read_text())
    return written | {"machine": machine(), "processor": _processor(), "load": load, "quick": quick,
                      "seconds": round(time.monotonic() - start), "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
                      "commit": commit()}  # fmt: skip


def with_other_processors(written: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    """The new figures of a program, and with them the newest of each other kind of processor."""
    if before is None:
        return written
    earlier = [{key: before[key] for key in before if key != "elsewhere"}, *before.get("elsewhere", [])]
    others = [one for one in earlier if one["processor"] != written["processor"]]
    return written | ({"elsewhere": others} if others else {})


def busy_processors(seconds: float) -> float:
    """The number of processors busy with other work now; the load average would still include the last program."""

    def ticks() -> tuple[int, int]:
        numbers = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(numbers), numbers[3] + numbers[4]  # idle and iowait

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
    model, flags = _described("model name") or platform.machine(), _described("flags").split()
    kinds = [name for flag, name in (("avx512_vnni", "AVX-512 VNNI"), ("amx_int8", "AMX")) if flag in flags]
    return f"{model} ({', '.join(kinds) or 'no int8 instructions'})"


def _described(what: str) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(what)), "")


def commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


# --- the document -----------------------------------------------------------------------------------------------


def document(figures: Figures) -> str:
    """The section of performance.md between the marks."""
    parts = ["![How much of each goal is reached](performance.svg)"]
    for program in figures.values():
        rows = [Row(**row) for row in program["rows"]]
        elsewhere: list[dict[str, Any]] = program.get("elsewhere", [])
        parts += [f"### {program['title']}", _circumstances(program), _table(rows, elsewhere)]
        parts += [f"On {other['processor']}: {_circumstances(other)}" for other in elsewhere]
        notes = [f"- {row.row}: {row.note}" for row in rows if row.note]
        if notes:
            parts.append("\n".join(notes))
    parts += ["### Cost", cost([Row(**row) for program in figures.values() for row in program["rows"]])]
    return "\n\n".join(parts)


def _circumstances(program: Mapping[str, Any]) -> str:
    load = program["load"]
    busy = f"; **{load:.1f} processors were busy with other work: neither times nor ratios are reliable**"
    quick = "; **a quick run, whose figures mean nothing**" if program["quick"] else ""
    return f"{program['at']}, commit {program['commit']}, {program['machine']}{busy if load > _BUSY else ''}{quick}"


def _table(rows: Sequence[Row], elsewhere: Sequence[Mapping[str, Any]]) -> str:
    head = ["", "ours", "compared with", "ratio", "goal", "", *(f"ratio on {one['processor']}" for one in elsewhere)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    others = [{(row["row"], row["peer_name"]): row["ratio"] for row in one["rows"]} for one in elsewhere]
    for row in rows:
        peer = f"{_number(row.peer)} {row.peer_name}" if row.peer is not None else ""
        verdict = "" if row.ratio is None or row.goal is None else ("reached" if reached(row) else "**missed**")
        figures = [f"{_number(row.ours)} {row.unit}", peer, _two_places(row.ratio), _two_places(row.goal), verdict]
        figures += [_two_places(ratios.get((row.row, row.peer_name))) for ratios in others]
        lines.append(f"| {row.row} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _two_places(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


def cost(rows: Sequence[Row]) -> str:
    """Series per core and day, and per watt-hour, from the measured rates of an inference process with one thread."""
    rates = {row.row: row.ours for row in rows}
    lines = ["| series | per core and day | per watt-hour |", "|---|---|---|"]
    for slices, name in COSTED.items():
        if rate := rates.get(name):
            lines.append(f"| {slices} slices | {86400 * rate:,.0f} | {3600 * rate / WATTS_A_CORE:,.0f} |")
    assumed = f"Assumed, not measured: {WATTS_A_CORE:g} W per core, a server of 32 cores that draws 400 W."
    return (
        "\n".join(lines) + f"\n\n{assumed} Reading, classification, report and picture are included; receiving is not."
    )


def insert(text: str, figures: str) -> str:
    """The text with the section between the marks replaced; a text without marks gets them at its end."""
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n".lstrip()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}"


def plot(figures: Figures, file: Path) -> None:
    """Draw a bar for each row with a goal: its ratio as a part of the goal, cut off at 3; of many rows, the lowest."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    mpl.rcParams |= {"svg.hashsalt": "performance", "svg.fonttype": "none"}  # the same figures give the same file
    judged = [pair for program in figures.values() for pair in _rows_with_goal(program)]
    figure, axes = pyplot.subplots(figsize=(9, 0.6 + 0.26 * max(1, len(judged))), layout="constrained")
    names = [f"{row.row} ({row.peer_name})" if row.peer_name != "limit" else row.row for row, _ in judged]
    positions = range(len(judged))
    axes.barh(positions, [min(part, 3.0) for _, part in judged],
              color=["#2a7f62" if part >= 1 else "#b5532a" for _, part in judged])  # fmt: skip
    for position, (_, part) in enumerate(judged):
        axes.text(min(part, 3.0) + 0.03, position, f"{part:.2f}", va="center", fontsize=8)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set(yticks=positions, xlim=(0, 3.3), xlabel="part of the goal that is reached (1 = the goal)")
    axes.set_yticklabels(names, fontsize=8)
    axes.set_ylim(len(judged) - 0.4, -0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _rows_with_goal(program: Mapping[str, Any]) -> list[tuple[Row, float]]:
    rows = [Row(**row) for row in program["rows"]]
    parts = [(row, row.ratio / row.goal) for row in rows if row.ratio is not None and row.goal]
    if len(parts) <= _DRAWN:
        return parts
    lowest = sorted(parts, key=itemgetter(1))[:_DRAWN]
    return [pair for pair in parts if pair in lowest]


def write(figures: Figures, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "performance.json").write_text(json.dumps(figures, indent=1) + "\n")
    plot(figures, out / "performance.svg")
    page = out / "performance.md"
    page.write_text(insert(page.read_text() if page.is_file() else "", document(figures)))


def main(arguments: Sequence[str] | None = None, programs: Sequence[Path] | None = None) -> int:
    """Run the benchmarks; `programs` replaces those of PROGRAMS in tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names of programs, separated by commas")
    parser.add_argument("--quick", action="store_true", help="a short run that shows that it works; needs --out")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of performance.md")
    chosen = parser.parse_args(arguments)
    programs = programs or [ROOT / "benchmarks" / f"{name}.py" for name in PROGRAMS]
    names = chosen.only.split(",") if chosen.only else [program.stem for program in programs]
    if unknown := set(names) - {program.stem for program in programs}:
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    if chosen.quick and chosen.out == ROOT / "docs":
        parser.error("a quick run says nothing about performance: give --out")
    file = chosen.out / "performance.json"
    stored: Figures = json.loads(file.read_text()) if file.is_file() else {}
    failed = []
    for program in programs:
        if program.stem not in names:
            continue
        print(f"\n{program.stem}", flush=True)
        if (written := run(program, chosen.quick)) is None:
            failed.append(program.stem)
        if not written:
            continue
        stored[program.stem] = with_other_processors(written, stored.get(program.stem))
        write({name: stored[name] for name in (program.stem for program in programs) if name in stored}, chosen.out)
    rows = [Row(**row) for name in names if name in stored for row in stored[name]["rows"]]
    missed = [row for row in rows if not reached(row)]
    print(f"\n{len(rows)} rows, {len(missed)} goals missed", *map(as_line, missed), sep="\n")
    if failed:
        print(f"without figures: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
