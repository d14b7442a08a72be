"""An archive on a local Dask cluster: `worker classify --workers 2` against `--workers 1`.

    PYTHONPATH=. python benchmarks/bulk.py
    PYTHONPATH=. python benchmarks/bulk.py --series 200

Series of 24 slices of 128 x 128 pixels, with the default model, each worker on one thread. The time is that of the
whole command: start of the cluster, headers, classification, results. Needs two free cores and 3 MB of disk a series.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pydicom import dcmread

from benchmarks.latency import DIFFERENT, write_series
from benchmarks.rows import Row, add_common, finish
from tests.testbed.phantom import Grid, head_series
from tests.testbed.worker_process import COMMAND

SERIES, QUICK = 2000, 8
GOAL = 1.9


def write_archive(folder: Path, series: int) -> None:
    grid = Grid(slices=DIFFERENT, rows=128, columns=128, pixel_mm=1.875)
    drawn = [dcmread(file) for file in head_series(folder.parent / "drawn", grid=grid)]
    for number in range(series):
        write_series(folder / f"{number:05d}", drawn, DIFFERENT)


def seconds(folder: Path, workers: int) -> float:
    """The time of a command that classifies the archive from the start. Raises CalledProcessError."""
    command = [*COMMAND, "classify", "archive", "--out", f"answers-{workers}", "--workers", str(workers)]
    start = time.perf_counter()
    with (folder / f"answers-{workers}.csv").open("w") as out:
        subprocess.run([*command, "--format", "csv"], cwd=folder, stdout=out, check=True)
    took = time.perf_counter() - start
    shutil.rmtree(folder / f"answers-{workers}")
    return took


def row(series: int, alone: float, two: float) -> Row:
    note = f"{series} series in {two:.0f} s, by one worker in {alone:.0f} s"
    name = "archive of 24 slices: two Dask workers"
    return Row(name, series / two, "series/s", 1, series / alone, "one worker", alone / two, GOAL, note)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument("--series", type=int, default=SERIES)
    chosen = parser.parse_args()
    series = min(chosen.series, QUICK) if chosen.quick else chosen.series
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_archive(folder / "archive", series)
        finish("Bulk", [row(series, seconds(folder, 1), seconds(folder, 2))], chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
