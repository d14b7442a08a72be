"""What the headers tell of real series: the series type and eligibility of each, against what is expected of it.

    PYTHONPATH=. python benchmarks/series_type.py DATA [--truth FILE] [--json FILE]

DATA is a folder with series.csv and the archives that it names. `series.csv` has the columns `file` (an archive or a
folder of DICOM files), `what` and `expected`. A series that is expected to be "refused" must be refused, and one that
is expected to be "classified …" must not; "refused or not assessed" may be either, because headers do not always tell.
Exits with 1 if a series is not as expected.

--truth names a CSV file with the columns `file`, `sequence` (as worker/dicom/series_type.py names it) and
`contrast_agent` ("with", "without", or empty where nobody knows): how many of its series are told rightly is printed,
and written by --json for `monai-train evaluate-default --series-type`.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.config.sections import EligibilitySection
from worker.dicom.series_type import SeriesType, read_series_type
from worker.ops.classify_folder import read_folder
from worker.receive.eligibility import SeriesRefusal, check_eligibility


@dataclass(frozen=True)
class Judged:
    """A series, what it is said to be, and whether eligibility is as expected."""

    file: str
    what: str
    expected: str
    series_type: SeriesType
    refusal: SeriesRefusal | None

    @property
    def is_as_expected(self) -> bool:
        if self.expected == "refused":
            return self.refusal is not None
        return not self.expected.startswith("classified") or self.refusal is None


def judge_all(data: Path) -> Iterator[Judged]:
    """The series that DATA/series.csv lists, each with its largest DICOM series."""
    with (data / "series.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        with tempfile.TemporaryDirectory() as folder:
            source = data / row["file"]
            if source.is_file():
                with tarfile.open(source) as archive:
                    archive.extractall(folder, filter="data")
                source = Path(folder)
            series, _ = read_folder(source)
            members = max(series.values(), key=len)
            attributes = [instance.attributes for _, instance in members]
            series_type = read_series_type(attributes)
            refusal = check_eligibility(attributes, EligibilitySection(), series_type)
            yield Judged(row["file"], row["what"], row["expected"], series_type, refusal)


def is_right(series_type: SeriesType, truth: dict[str, str]) -> bool:
    """Whether the sequence is that of the row of truth, and the contrast agent too where the row tells."""
    agent = truth.get("contrast_agent")
    return series_type.sequence == truth["sequence"] and agent in (None, "", str(series_type.contrast_agent))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each series."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--truth", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    judged = list(judge_all(options.data))
    for series in judged:
        outcome = f"refused: {series.refusal.reason}" if series.refusal else "eligible"
        mark = "ok " if series.is_as_expected else "BAD"
        print(f"{mark} {series.what[:38]:38}  {series.expected[:24]:24}  {outcome:26}  {series.series_type}")
    if options.truth is not None:
        with options.truth.open(newline="", encoding="utf-8") as file:
            truths = {row["file"]: row for row in csv.DictReader(file)}
        right = [is_right(series.series_type, truths[series.file]) for series in judged if series.file in truths]
        print(f"{sum(right)} of {len(right)} series types right")
        if options.json is not None:
            options.json.write_text(json.dumps({"right": sum(right), "n": len(right)}) + "\n")
    print(f"{sum(series.is_as_expected for series in judged)} of {len(judged)} as expected")
    return 0 if all(series.is_as_expected for series in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
