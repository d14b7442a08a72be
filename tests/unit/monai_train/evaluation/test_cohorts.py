"""Honest cohorts and the leaky one are told apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_train.data.manifest import read_manifest
from monai_train.data.patients import SplitRole
from monai_train.evaluation.cohorts import cohort_plots, cohorts, evaluated_bundle, evaluated_runs, measure_cohort
from monai_train.evaluation.evaluate import run_split
from tests.testbed.tiny_bundle import make_tiny_bundle
from worker.errors import StartError


def test_parts_are_apart_and_only_the_official_one_is_leaky(official_data: Path, tiny_run: Path) -> None:
    rows, split = read_manifest(official_data), run_split(tiny_run)
    found = {cohort.key: cohort for cohort in cohorts(rows, split)}
    assert {key: cohort.leaky for key, cohort in found.items()} == {"test": False, "external": False, "official": True}
    roles = split.roles(rows)
    trained = {row.patient_group for row, role in zip(rows, roles, strict=True) if role is SplitRole.TRAIN}
    assert not trained & {rows[i].patient_group for i in (*found["test"].chosen, *found["external"].chosen)}
    known = sum(roles[i] in (SplitRole.TRAIN, SplitRole.VALIDATION) for i in found["official"].chosen)
    assert known > 0
    assert f"{known} of these {len(found['official'].chosen)} images" in found["official"].note


def test_other_data_are_one_part_that_claims_nothing(official_data: Path, tiny_run: Path) -> None:
    rows = read_manifest(official_data)[1:]
    for split in (run_split(tiny_run), None):
        (cohort,) = cohorts(rows, split)
        assert len(cohort.chosen) == len(rows)
        assert "check yourself" in cohort.note


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
    test = next(cohort for cohort in cohorts(rows, model.split) if cohort.key == "test")
    result = measure_cohort(model, tiny_data, rows, test)
    assert result.slices["accuracy"].n == len(test.chosen)
    assert [row.path for row in result.evidence.rows] == [rows[i].path for i in test.chosen]
    charts = cohort_plots(result)
    assert {"confusion-slices", "confusion-patients", "reliability", "risk-coverage"} <= set(charts)
    assert all(chart.startswith(b"\x89PNG") for chart in charts.values())
