"""Honest cohorts and the leaky one are told apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from monai_train.data.manifest import ManifestRow, read_manifest
from monai_train.data.patients import SplitRole
from monai_train.evaluation.cohorts import (
    EvaluatedModel,
    cohort_plots,
    cohorts,
    confounded,
    evaluated_bundle,
    evaluated_runs,
    group_figures,
    guessed,
    measure_cohort,
    measured_part,
    slice_level,
)
from monai_train.evaluation.evaluate import run_split, truths
from monai_train.evaluation.metrics import Predictions
from tests.testbed.converted import CLASSES
from tests.testbed.reference_systems import manifest_row
from tests.testbed.tiny_bundle import make_tiny_bundle
from worker.errors import StartError


def test_parts_are_apart_and_only_the_official_one_is_leaky(official_data: Path, tiny_run: Path) -> None:
    rows, split = read_manifest(official_data), run_split(tiny_run)
    found = {cohort.key: cohort for cohort in cohorts(evaluated_runs([tiny_run], flip=False), rows)}
    assert {key: cohort.leaky for key, cohort in found.items()} == {"test": False, "external": False, "official": True}
    roles = split.roles(rows)
    trained = {row.patient_group for row, role in zip(rows, roles, strict=True) if role is SplitRole.TRAIN}
    assert not trained & {rows[i].patient_group for i in (*found["test"].chosen, *found["external"].chosen)}
    known = sum(roles[i] in (SplitRole.TRAIN, SplitRole.VALIDATION) for i in found["official"].chosen)
    assert known > 0
    assert f"{known} of these {len(found['official'].chosen)} images" in found["official"].note


def test_other_data_are_one_part_that_claims_nothing(official_data: Path, tiny_run: Path) -> None:
    rows = read_manifest(official_data)[1:]
    model = evaluated_runs([tiny_run], flip=False)
    for other in (model, replace(model, split=None)):
        (cohort,) = cohorts(other, rows)
        assert len(cohort.chosen) == len(rows)
        assert "whether training used some of them is unknown" in cohort.note


def test_a_bundle_is_named_with_its_facts_and_what_is_unknown_is_marked(tmp_path: Path) -> None:
    model = evaluated_bundle(make_tiny_bundle(tmp_path / "bundle"), "fp32", flip=True)
    facts = dict(model.facts)
    assert facts["engine"] == "OpenVINO fp32"
    assert facts["test-time flip"] == "yes"
    assert model.name == f"{facts['name']} {facts['version']}"
    assert model.split is None  # another program's bundle


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    (bundle / "models/model.bin").write_bytes(b"")
    with pytest.raises(StartError):
        evaluated_bundle(bundle, "int8", flip=False)


def test_several_runs_are_named_as_an_ensemble(tiny_run: Path) -> None:
    assert evaluated_runs([tiny_run], flip=False).name == "tiny"
    both = evaluated_runs([tiny_run, tiny_run], flip=False)
    assert both.name == "ensemble of tiny, tiny"
    assert dict(both.facts)["networks"] == "2"
    assert both.split == run_split(tiny_run)


def test_figures_are_of_the_cohorts_pictures_and_every_chart_is_a_png(tiny_run: Path, tiny_data: Path) -> None:
    rows = read_manifest(tiny_data)
    model = evaluated_runs([tiny_run], flip=False)
    test = next(cohort for cohort in cohorts(model, rows) if cohort.key == "test")
    result = measure_cohort(model, tiny_data, rows, test)
    assert result.slices["accuracy"].n == len(test.chosen)
    assert [row.path for row in result.evidence.rows] == [rows[i].path for i in test.chosen]
    charts = cohort_plots(result)
    assert {"confusion-slices", "confusion-patients", "reliability", "risk-coverage"} <= set(charts)
    assert all(chart.startswith(b"\x89PNG") for chart in charts.values())


def test_the_test_part_is_measured_unless_another_is_asked_for(tiny_data: Path, tiny_run: Path) -> None:
    rows, model = read_manifest(tiny_data), evaluated_runs([tiny_run], flip=False)
    roles = run_split(tiny_run).roles(rows)
    part = measured_part(model, rows)
    assert (part.name, part.to_json(rows)["of"]) == ("test", len(rows))
    assert {roles[i] for i in part.chosen} == {SplitRole.TEST}
    assert len(measured_part(model, rows, "all").chosen) == len(rows)
    assert {roles[i] for i in measured_part(model, rows, "validation").chosen} == {SplitRole.VALIDATION}
    with pytest.raises(StartError, match="does not say how its training data were split"):
        measured_part(replace(model, split=None), rows, "test")


def test_of_another_folder_what_the_bundle_learned_from_is_left_out_with_its_patients() -> None:
    rows = [manifest_row(n, label, f"P{n // 2}") for n, label in enumerate([0, 0, 3, 3, 1, 3])]
    short = [replace(row, source_sha256=f"{n:012x}" + "0" * 52) for n, row in enumerate(rows)]
    model = EvaluatedModel("m", (), None, learned=frozenset({short[0].source_sha256[:12]}))
    part = measured_part(model, short)
    assert (part.name, part.chosen) == ("unseen", [2, 3, 4, 5])
    assert "1 picture of training left out" in part.note
    nothing = measured_part(EvaluatedModel("m", (), None, learned=frozenset({"f" * 12})), short)
    assert (nothing.name, len(nothing.chosen)) == ("all", 6)
    assert "none of them is among those that the model learned from" in nothing.note
    everything = frozenset(row.source_sha256[:12] for row in short)
    with pytest.raises(StartError, match="every picture, or its patient, was in training"):
        measured_part(EvaluatedModel("m", (), None, learned=everything), short)


def answered(rows: list[ManifestRow]) -> Predictions:
    """All right, of a patient each."""
    truth = truths(rows, CLASSES)
    groups = np.array([str(n) for n in range(len(rows))])
    return Predictions(CLASSES, truth, np.eye(4, dtype=np.float32)[truth], groups, np.ones(len(rows), bool))


def test_figures_are_given_by_sequence_slice_level_and_source() -> None:
    base = [manifest_row(n, label, str(n), "a" if n < 6 else "b") for n, label in enumerate([0, 3, 1, 3] * 3)]
    rows = [
        replace(row, sequence="T1" if n % 3 else "", slice_number=n + 1, slice_count=12, plane="axial")
        for n, row in enumerate(base)
    ]
    found = group_figures(answered(rows), rows)
    assert {kind: {name: figures["n"] for name, figures in values.items()} for kind, values in found.items()} == {
        "sequence": {"unknown": 4, "T1": 8},
        "slice_level": {"lower third": 4, "middle third": 4, "upper third": 4},
        "source": {"a": 6, "b": 6},
    }
    assert found["source"]["a"]["sensitivity"] == 1
    assert found["source"]["a"]["sensitivity_ci"] == [pytest.approx(0.025 ** (1 / 3)), 1]
    assert "sequence" not in group_figures(answered(base), base)


def test_levels_are_thirds_of_axial_series() -> None:
    row = replace(manifest_row(0, 0, "p"), slice_count=10)
    levels = [slice_level(replace(row, slice_number=number)) for number in range(1, 11)]
    assert levels == ["lower third"] * 4 + ["middle third"] * 3 + ["upper third"] * 3
    assert slice_level(replace(row, slice_number=1, plane="sagittal")) == ""
    assert slice_level(row) == ""


def test_a_class_that_follows_from_its_source_is_warned_of() -> None:
    apart = [manifest_row(n, 0 if n % 2 else 3, str(n), "tumours" if n % 2 else "healthy") for n in range(20)]
    (warning,) = confounded(answered(apart), apart)
    assert warning.startswith("tumour or none follows from the source alone in 100 %")
    mixed = [manifest_row(n, 0 if n % 2 else 3, str(n), "a" if n % 4 < 2 else "b") for n in range(20)]
    assert confounded(answered(mixed), mixed) == []
    by_patient = [manifest_row(n, 0 if n % 4 < 2 else 3, str(n // 2), f"folder-{n // 2}") for n in range(20)]
    assert confounded(answered(by_patient), by_patient) == []
    by_contrast = [replace(row, sequence="T1C" if row.label == "glioma" else "T2") for row in mixed]
    (warning,) = confounded(answered(by_contrast), by_contrast)
    assert "measures the sequence" in warning
    kinds = [manifest_row(n, n % 2, str(n), "a" if n % 2 else "b") for n in range(20)]
    assert [sentence.split(" follows")[0] for sentence in confounded(answered(kinds), kinds)] == [
        "the kind of a tumour"
    ]


def test_a_guess_is_judged_with_classes_weighted_equally() -> None:
    values = np.array(["a"] * 10 + ["b"] * 90)
    assert guessed(values, np.array([1] * 10 + [0] * 90)) == 1
    assert guessed(values, np.array([1] * 10 + [0] * 80 + [1] * 10)) == 0.75
    assert guessed(values, np.zeros(100)) == 0
