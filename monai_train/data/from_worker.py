"""`monai-train convert --from-worker`: the output of `worker readings export` → a data set of confirmed series.

OUT/manifest.csv   for `train`, `evaluate` and `explore`: the series with a slice whose label is known, whole, as their
                   slices are preprocessed together; the other slices have no label
OUT/series.csv     every slice of every series with the label of the series, for `retrain` to evaluate whole series

A reader states what a series shows, not what each slice shows. A slice is labelled only if its label follows from that:

| the series shows | slices that get its label | `truth` |
|---|---|---|
| a tumour, and the reader marked slices | the marked slices | marked |
| a tumour, and the model found a tumour, of any kind | the model's key slices, which the reader saw | deciding |
| a tumour that the model missed, without marked slices | none: the series is used for evaluation only | |
| no tumour | slices in distribution, at most SLICES_WITHOUT, evenly spaced over the series | series |

The other slices of a series with a tumour are not "no tumour": a neighbouring slice may show its margin.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from monai_train.data.convert import Conversion, convert
from monai_train.data.labels import NO_TUMOUR, class_name
from monai_train.data.manifest import write_csv
from monai_train.data.patients import DEFAULT_SALT
from worker.errors import StartError

LABELS = "labels.csv"
LEFT_OUT = "left-out.csv"
SERIES = "series.csv"
SERIES_COLUMNS = ("path", "series", "ordinal", "label", "patient_group", "dataset")
SLICES_WITHOUT = 12
_NEEDED = ("series", "ordinal", "marked", "deciding", "in_distribution", "answer")
_TRUTHS = {"marked", "deciding", "series"}

Line = dict[str, str]


def convert_export(export: Path, out: Path, salt: str = DEFAULT_SALT) -> Conversion:
    """Convert an exported folder; patients are identified by `salt` and the DICOM patient, so never change the salt.

    Raises StartError as `convert` does, and if the worker did not write the folder or no slice gets a label.
    """
    labels = export / LABELS
    if not labels.is_file():
        raise StartError("no-export", f"{export} has no {LABELS}: write the folder with `worker readings export`")
    tables = [export / LEFT_OUT]
    return convert(export, out, labels=labels, salt=salt, tables=tables, choose=lambda lines: _choose(lines, out))


def _choose(lines: Sequence[Line], out: Path) -> list[Line]:
    """Write the series; return the lines of the manifest, with `truth`, "" for a slice without a label."""
    if lines and not set(_NEEDED) <= set(lines[0]):
        raise StartError("no-export", f"{LABELS} was not written by `worker readings export`: columns are missing")
    by_series: dict[str, list[Line]] = {}
    for line in lines:
        by_series.setdefault(_name(line), []).append(line)
    named = ({**{c: line[c] for c in SERIES_COLUMNS}, "series": _name(line)} for line in lines)
    write_csv(out / SERIES, SERIES_COLUMNS, named)
    chosen = {id(line): truth for members in by_series.values() for line, truth in _known(members)}
    if not chosen:
        raise StartError(
            "no-truth", "no slice of the confirmed series has a known label: mark slices of a tumour in the worker"
        )
    return [
        line | ({"truth": chosen[id(line)]} if id(line) in chosen else {"truth": "", "label": ""})
        for members in by_series.values()
        if any(id(line) in chosen for line in members)
        for line in members
    ]


def _name(line: Line) -> str:
    """The name of the series: that of its folder in the export."""
    return PurePosixPath(line["source"]).parent.name


def _known(series: Sequence[Line]) -> list[tuple[Line, str]]:
    """The slices of a series that get its label, with their `truth`; see the module."""
    marked = [line for line in series if line["marked"]]
    if class_name(series[0]["label"]) == NO_TUMOUR:
        usable = [line for line in series if line["in_distribution"]]
        indices = np.linspace(0, len(usable) - 1, min(SLICES_WITHOUT, len(usable))).round().astype(int)
        return [(usable[index], "series") for index in indices.tolist()]
    if marked:
        return [(line, "marked") for line in marked]
    if _is_tumour(series[0]["answer"]):
        return [(line, "deciding") for line in series if line["deciding"]]
    return []


def _is_tumour(answer: str) -> bool:
    return bool(answer) and class_name(answer) != NO_TUMOUR


def summary(done: Conversion, out: Path) -> list[str]:
    """Lines to print below the table."""
    truths = Counter(line["truth"] for line in done.manifest)
    counts = ", ".join(f"{truths[truth]} {truth}" for truth in sorted(_TRUTHS) if truths[truth])
    return [f"slices by how their label is known: {counts}", f"whole series: {out / SERIES}"]
