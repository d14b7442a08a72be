"""The validation part as cases for `decision`: single slices, whole series, and runs of slices of a known truth.

Evidence is computed by `worker.inference.series_rule`, as the worker computes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from monai_train.data.dataset import series_of
from monai_train.data.labels import Classes
from monai_train.data.manifest import ManifestRow
from monai_train.export.decision import KindCase, LesionCase
from worker.errors import NotAssessable
from worker.inference.series_rule import (
    BoolArray,
    Declared,
    Layout,
    SeriesLimits,
    choose_sequence,
    read_slices,
    split_logits,
)
from worker.pixels.arrays import FloatArray

_SHORTEST_RUN = 3  # slices without a lesion, in a series that has a lesion elsewhere


@dataclass(frozen=True, eq=False, slots=True)
class SliceOutputs:
    """What the network said of `rows`: `logits` [n, K + S + R], and which are in distribution, [n]."""

    rows: tuple[ManifestRow, ...]
    logits: FloatArray
    in_distribution: BoolArray


def lesion_cases(outputs: SliceOutputs, classes: Classes, layout: Layout, limits: SeriesLimits) -> list[LesionCase]:
    """Every slice of known truth by itself, every series, and every run of three or more slices without a lesion.

    Only what the series rule would answer is a case: brain, in distribution, of a known sequence, by the pixels where
    the manifest does not tell.
    """
    found = [_case(outputs, [index], classes, layout, limits) for index in range(len(outputs.rows))]
    for series in _series(outputs.rows):
        found.append(_case(outputs, series, classes, layout, limits))
        found.extend(_case(outputs, run, classes, layout, limits) for run in _runs(outputs.rows, series, classes))
    return [case for case in found if case is not None]


def kind_cases(outputs: SliceOutputs, classes: Classes, layout: Layout) -> list[KindCase]:
    """Every slice with a lesion of known kind and sequence."""
    lesions = split_logits(outputs.logits, layout)[0][:, layout.is_lesion]
    names = [name for name in layout.classes if name != layout.no_lesion]
    return [
        KindCase(row.sequence, tuple(own.tolist()), names.index(row.label), row.patient_group)
        for row, own in zip(outputs.rows, lesions, strict=True)
        if row.label in names and row.sequence in layout.sequences
    ]


def _case(
    outputs: SliceOutputs, chosen: Sequence[int], classes: Classes, layout: Layout, limits: SeriesLimits
) -> LesionCase | None:
    rows = [outputs.rows[index] for index in chosen]
    labels = {row.label for row in rows if row.label}
    if not labels or rows[0].sequence not in ("", *layout.sequences):
        return None
    lesion = labels != {classes.names[classes.no_tumour]}
    if not lesion and any(not row.label for row in rows):
        return None  # a slice between may show a lesion
    evidence = read_slices(outputs.logits[chosen], outputs.in_distribution[chosen], None, layout, limits)
    if not evidence.has_say.any():
        return None
    try:
        sequence = rows[0].sequence or choose_sequence(Declared(), evidence.sequences, layout.sequences, limits).name
    except NotAssessable:
        return None
    return LesionCase(sequence, evidence.strongest, evidence.slices_with_say, lesion, rows[0].patient_group)


def _series(rows: Sequence[ManifestRow]) -> list[list[int]]:
    """The positions of the slices of each series of two or more, in their order."""
    return [sorted(own, key=lambda i: rows[i].slice_number or 0) for own in series_of(rows) if len(own) > 1]


def _runs(rows: Sequence[ManifestRow], series: Sequence[int], classes: Classes) -> Iterator[list[int]]:
    """Runs of neighbouring slices without a lesion, of a series that has a lesion."""
    free = [rows[index].label == classes.names[classes.no_tumour] for index in series]
    if all(free):
        return
    edges = np.flatnonzero(np.diff(np.concatenate(([False], free, [False])).astype(int)))
    for start, end in edges.reshape(-1, 2).tolist():
        if end - start >= _SHORTEST_RUN:
            yield list(series[start:end])
