"""`monai-train convert --from-worker`: what `worker readings export` wrote → a dataset of confirmed series.

OUT/manifest.csv   the slices whose label is known: what `train`, `evaluate` and `explore` take
OUT/series.csv     every slice of every series with the label of the series: what `retrain` judges whole series by

A reader names what a series shows, not what each slice shows. So a slice gets a label only where it follows:

| the series shows | slices that get its label | `truth` |
|---|---|---|
| a tumour, and the reader marked slices | those | marked |
| a tumour, the model too said a tumour, of whichever kind | those that decided: the reader saw them | deciding |
| a tumour that the model did not see, nobody marked it | none: the series only judges | |
| no tumour | those that resemble the training data, at most SLICES_WITHOUT evenly over the series | series |

The other slices of a series with a tumour are not "no tumour": the next one may hold its margin.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monai_train.data.convert import Conversion, convert
from monai_train.data.inventory import DEFAULT_SALT
from monai_train.data.labels import CLASS_NAMES, NO_TUMOUR, label_index
from monai_train.data.manifest import write_csv
from worker.errors import StartError

LABELS = "labels.csv"
SERIES = "series.csv"
SERIES_COLUMNS = ("path", "series", "ordinal", "label", "patient_group", "dataset")
SLICES_WITHOUT = 12
_NEEDED = ("series", "ordinal", "marked", "deciding", "in_distribution", "answer")
_TRUTHS = {"marked", "deciding", "series"}

Line = dict[str, str]


def convert_export(export: Path, out: Path, salt: str = DEFAULT_SALT) -> Conversion:
    """Convert an exported folder; patients are told apart by `salt` and the DICOM patient, so keep the salt.

    Raises StartError as `convert`, and where the folder is none that the worker wrote or no slice gets a label.
    """
    labels = export / LABELS
    if not labels.is_file():
        raise StartError("no-export", f"{export} has no {LABELS}: write it with `worker readings export`")
    return convert(export, out, labels=labels, salt=salt, choose=lambda lines: _choose(lines, out))


def _choose(lines: Sequence[Line], out: Path) -> list[Line]:
    """The lines of the manifest, `truth` added; the series are written."""
    if lines and not set(_NEEDED) <= set(lines[0]):
        raise StartError("no-export", f"{LABELS} is none that `worker readings export` wrote")
    by_series: dict[str, list[Line]] = {}
    for line in lines:
        by_series.setdefault(line["series"], []).append(line)
    write_csv(out / SERIES, SERIES_COLUMNS, ({c: line[c] for c in SERIES_COLUMNS} for line in lines))
    chosen = {id(line): truth for members in by_series.values() for line, truth in _known(members)}
    if not chosen:
        raise StartError("no-truth", "no slice of the confirmed series has a label that is known: mark some")
    return [line | {"truth": chosen[id(line)]} for line in lines if id(line) in chosen]


def _known(series: Sequence[Line]) -> list[tuple[Line, str]]:
    """The slices of one series that get its label, and why; see the module."""
    marked = [line for line in series if line["marked"]]
    if label_index(series[0]["label"]) == NO_TUMOUR:
        usable = [line for line in series if line["in_distribution"]]
        places = np.linspace(0, len(usable) - 1, min(SLICES_WITHOUT, len(usable))).round().astype(int)
        return [(usable[place], "series") for place in places.tolist()]
    if marked:
        return [(line, "marked") for line in marked]
    if _is_tumour(series[0]["answer"]):
        return [(line, "deciding") for line in series if line["deciding"]]
    return []


def _is_tumour(answer: str) -> bool:
    return answer in CLASS_NAMES and answer != CLASS_NAMES[NO_TUMOUR]


def summary(done: Conversion, out: Path) -> list[str]:
    """What a person is told beside the table."""
    truths = Counter(line["truth"] for line in done.manifest)
    told = ", ".join(f"{truths[one]} {one}" for one in sorted(_TRUTHS) if truths[one])
    return [f"why a slice has its series' label: {told}", f"whole series: {out / SERIES}"]
