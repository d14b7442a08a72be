"""The validation part becomes cases of the same evidence as the worker's."""

from __future__ import annotations

import numpy as np
import pytest

from monai_train.data.labels import Classes
from monai_train.data.manifest import ManifestRow
from monai_train.export.cases import SliceOutputs, kind_cases, lesion_cases
from worker.inference.series_rule import Layout, SeriesLimits

CLASSES = Classes.named(("glioma", "meningioma", "notumor"))
LAYOUT = Layout(CLASSES.names, "notumor", ("T1", "other"), ("brain", "other"))
LIMITS = SeriesLimits(10.0, 0.5, 0.2, 0.3, 0.6, 0.9)


def _row(label: str, series: str = "", number: int = 1, sequence: str = "T1") -> ManifestRow:
    return ManifestRow(
        f"{series}{number}.dcm", label, "p", "g", "made", "0", 9, 9, None, False,
        sequence=sequence, series=series, slice_number=number, slice_count=9,
    )  # fmt: skip


def _outputs(rows: list[ManifestRow], lesion: list[float], brain: float = 5.0) -> SliceOutputs:
    logits = np.array([[value, -50.0, 0.0, 0.0, 0.0, brain, 0.0] for value in lesion], np.float32)
    return SliceOutputs(tuple(rows), logits, np.ones(len(rows), bool))


def test_a_series_and_its_slices_are_cases() -> None:
    labels = ["notumor", "notumor", "notumor", "", "glioma", "glioma"]
    rows = [_row(label, "s", 1 + k) for k, label in enumerate(labels)]
    cases = lesion_cases(_outputs(rows, [-4, -4, -4, 0, 6, 4]), CLASSES, LAYOUT, LIMITS)
    alone = [case for case in cases if case.windows == 1]
    assert [case.evidence for case in alone] == pytest.approx([-4, -4, -4, 6, 4])
    assert [case.lesion for case in alone] == [False, False, False, True, True]
    whole = next(case for case in cases if case.windows == 6)
    assert whole.lesion
    assert whole.evidence == pytest.approx(5)  # the last two slices
    run = next(case for case in cases if case.windows == 3)
    assert not run.lesion
    assert run.evidence == pytest.approx(-4)


def test_a_series_without_a_lesion_is_a_case_by_itself() -> None:
    rows = [_row("notumor", "s", 1 + k) for k in range(4)]
    cases = lesion_cases(_outputs(rows, [-1, -1, 3, -1]), CLASSES, LAYOUT, LIMITS)
    assert [case.windows for case in cases] == [1, 1, 1, 1, 4]
    assert cases[-1].evidence == pytest.approx(1)  # the mean of the last two


def test_what_the_worker_would_not_answer_is_no_case() -> None:
    assert not lesion_cases(_outputs([_row("glioma")], [3], brain=-5), CLASSES, LAYOUT, LIMITS)
    assert not lesion_cases(_outputs([_row("glioma", sequence="")], [3]), CLASSES, LAYOUT, LIMITS)
    assert not lesion_cases(_outputs([_row("glioma", sequence="PD")], [3]), CLASSES, LAYOUT, LIMITS)
    assert not lesion_cases(_outputs([_row("")], [3]), CLASSES, LAYOUT, LIMITS)


def test_the_pixels_tell_the_sequence_of_a_picture_that_declares_none() -> None:
    outputs = _outputs([_row("glioma", sequence="")], [3])
    outputs.logits[:, 3:5] = 2, -2
    [case] = lesion_cases(outputs, CLASSES, LAYOUT, LIMITS)
    assert case.sequence == "T1"


def test_kinds_are_those_of_lesions_of_known_kind() -> None:
    cases = kind_cases(_outputs([_row("meningioma"), _row("notumor"), _row("tumor")], [3, 3, 3]), CLASSES, LAYOUT)
    assert [(case.kind, case.logits) for case in cases] == [(1, (3.0, -50.0))]
