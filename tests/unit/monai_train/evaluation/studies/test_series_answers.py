"""The series of a patient as the worker would judge them, of the engine's outputs for a converted folder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from monai_train.data.manifest import ManifestRow
from monai_train.evaluation.out_of_distribution import row_without_truth
from monai_train.evaluation.studies.fusion_figures import study_cases
from monai_train.evaluation.studies.series_answers import Outputs, declared_as, judge_series, study_of
from worker.errors import StartError
from worker.inference.bundle import Bundle


def row(series: str, sequence: str, patient: str = "p1") -> ManifestRow:
    return replace(
        row_without_truth("a.dcm", "x"), series=series, sequence=sequence, patient_group=patient, plane="axial"
    )


def outputs(bundle: Bundle, rows: list[ManifestRow], lesion: list[bool]) -> Outputs:
    """Logits of slices of brain, of the row's sequence, with a glioma or without."""
    layout = bundle.decision.layout
    logits = np.full((len(rows), layout.outputs), -4.0, np.float32)
    first = len(layout.classes)
    for index, (own, shows) in enumerate(zip(rows, lesion, strict=True)):
        logits[index, 0 if shows else layout.no_lesion_index] = 4
        logits[index, first + layout.sequences.index(own.sequence)] = 4
        logits[index, first + len(layout.sequences) + layout.regions.index("brain")] = 4
    return Outputs(rows, logits, np.ones(len(rows), bool))


def test_series_and_sequences_are_judged_apart(bundle_two: Bundle) -> None:
    rows = [row("a", "T1C"), row("b", "FLAIR"), row("a", "T1C"), row("b", "other")]
    judged = judge_series(bundle_two, outputs(bundle_two, rows, [True, False, True, True]), range(4))
    assert judged.keys() == {("a", "T1C"), ("b", "FLAIR"), ("b", "other")}
    assert judged["a", "T1C"].decision is not None
    assert judged["b", "other"].refusal is not None
    answers = study_of(bundle_two, outputs(bundle_two, rows, [True, False, True, True]), range(4))
    assert [(item.sequence, item.label, item.reason) for item in answers] == [
        ("T1C", "glioma", None),
        ("FLAIR", "notumor", None),
        ("other", None, "sequence-not-supported"),
    ]


def test_a_study_is_what_a_patient_shows_of_one_truth(bundle_two: Bundle) -> None:
    rows = [row("a", "T1"), row("a", "T1"), row("b", "T2"), row("c", "T2", "p2")]
    found = study_cases(bundle_two, outputs(bundle_two, rows, [True, False, True, True]), [0, 4, 0, -1], 4)
    assert [(case.patient, case.lesion, len(case.series)) for case in found] == [("p1", True, 2), ("p1", False, 1)]


@pytest.mark.parametrize(("sequence", "agent"), [("T1", False), ("T1C", True), ("FLAIR", None), ("", None)])
def test_the_manifest_speaks_for_the_headers(sequence: str, agent: bool | None) -> None:
    declared = declared_as(sequence)
    assert declared.with_agent is agent
    assert declared.sequence == ({"T1C": "T1", "": None}.get(sequence, sequence))


def test_a_bundle_of_format_one_has_no_studies(bundle: Bundle) -> None:
    with pytest.raises(StartError, match="format 2"):
        study_of(bundle, Outputs([row("a", "T1")], np.zeros((1, 4), np.float32), np.ones(1, bool)), [0])
