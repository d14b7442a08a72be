"""Folds keep patients apart, whatever the data; a stopped cross-validation goes on; temperatures come from others."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from rich.console import Console

from monai_train.config import TrainConfig
from monai_train.data.manifest import ManifestRow, read_manifest
from monai_train.data.patients import SplitRole
from monai_train.evaluation.crossval import (
    Fold,
    assign_folds,
    cross_validate,
    fold_roles,
    fold_table,
    out_of_fold_temperatures,
    train_fold,
)
from monai_train.evaluation.evaluate import fit_temperature
from monai_train.training.checkpoint import CHECKPOINT
from tests.testbed.converted import CLASSES
from tests.testbed.waiting import patience
from tests.unit.monai_train.conftest import TINY
from worker.errors import StartError

PICTURES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), min_size=1, max_size=150)
SHORT = TINY.model_copy(update={"epochs": 1, "samples_per_epoch": 32})

ROW = ManifestRow("", "", "", "", "", "0" * 64, 9, 9, None, False)


def made_rows(pictures: list[tuple[int, int, bool]]) -> list[ManifestRow]:
    return [
        replace(
            ROW,
            path=f"{i}.dcm",
            label=CLASSES.label_names[label],
            patient_group=f"G{group}",
            picture_group=f"P{i}",
            dataset="out" if outside else "main",
        )
        for i, (label, group, outside) in enumerate(pictures)
        for dataset in ["out" if outside else "main"]
    ]


@settings(deadline=None)  # a busy machine is no fault
@given(pictures=PICTURES, folds=st.integers(2, 6), seed=st.integers(0, 9))
def test_no_group_is_on_two_sides(pictures: list[tuple[int, int]], folds: int, seed: int) -> None:
    labels, groups = [label for label, _ in pictures], [f"G{group}" for _, group in pictures]
    if len(set(groups)) < folds:
        with pytest.raises(StartError, match="folds"):
            assign_folds(labels, groups, folds, seed)
        return
    found = assign_folds(labels, groups, folds, seed)
    of_group: dict[str, set[int]] = {}
    for group, fold in zip(groups, found.tolist(), strict=True):
        of_group.setdefault(group, set()).add(fold)
    assert all(len(assigned) == 1 for assigned in of_group.values())
    assert set(found.tolist()) == set(range(folds))
    sizes = Counter(next(iter(assigned)) for assigned in of_group.values())
    assert max(sizes.values()) - min(sizes.values()) <= 1


@settings(deadline=None)
@given(labels=st.lists(st.integers(0, 3), min_size=12, max_size=60), folds=st.integers(2, 5))
def test_classes_are_even_over_the_folds(labels: list[int], folds: int) -> None:
    found = assign_folds(labels, [f"G{i}" for i in range(len(labels))], folds)
    for label in set(labels):
        counts = [int(((np.array(labels) == label) & (found == fold)).sum()) for fold in range(folds)]
        assert max(counts) - min(counts) <= 1


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    pictures=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.booleans()), min_size=80, max_size=150),
    folds=st.integers(2, 5),
)
def test_roles_of_all_folds_keep_patients_apart(pictures: list[tuple[int, int, bool]], folds: int) -> None:
    assume(len({group for _, group, outside in pictures if not outside}) >= 2 * folds)
    rows = made_rows(pictures)
    judged: Counter[int] = Counter()
    for fold in range(folds):
        roles = fold_roles(rows, ("out",), folds, fold, seed=0)
        sides: dict[str, set[SplitRole]] = {}
        for i, (row, role) in enumerate(zip(rows, roles, strict=True)):
            assert (role in (SplitRole.EXTERNAL, SplitRole.OVERLAP)) == (row.dataset == "out")
            if role is not SplitRole.OVERLAP:
                sides.setdefault(row.patient_group, set()).add(role)
            judged[i] += role is SplitRole.TEST
        assert all(len(roles) == 1 for roles in sides.values())
    assert all(judged[i] == (row.dataset == "main") for i, row in enumerate(rows))


def test_temperature_of_a_fold_is_fitted_on_the_others() -> None:
    generator = np.random.default_rng(0)
    logits = [(generator.normal(size=(50, 4)) * scale).astype(np.float32) for scale in (1, 3, 6)]
    labels = [fold.argmax(axis=1).tolist() for fold in logits]
    for fold_labels in labels:
        for i in range(0, 50, 4):
            fold_labels[i] = (fold_labels[i] + 1) % 4
    found = out_of_fold_temperatures(logits, labels, CLASSES)
    assert found[0] == fit_temperature(np.concatenate(logits[1:]), labels[1] + labels[2], CLASSES)
    changed = [np.zeros_like(logits[0]), *logits[1:]]
    assert out_of_fold_temperatures(changed, labels, CLASSES)[0] == found[0]


@pytest.fixture(scope="module")
def finished(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("crossval") / "run"
    cross_validate(tiny_data, run, SHORT, folds=3)
    return run


def test_every_picture_is_judged_once_by_a_model_that_did_not_know_it(finished: Path, tiny_data: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    with (finished / "predictions.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    inside = [row for row in read_manifest(tiny_data) if row.dataset == "main"]
    assert sorted(line["path"] for line in lines) == sorted(row.path for row in inside)
    assert report["n"] == len(inside) == sum(fold["slice"]["n"] for fold in report["folds"])
    assert report["estimates"]["patient"]["balanced_accuracy"]["n"] == len({row.patient_group for row in inside})
    console = Console(width=100, record=True)
    console.print(fold_table(report))
    assert "mean ± sd" in console.export_text()


def test_page_shows_every_fold_and_the_pooled_figures(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    report = json.loads((finished / "report.json").read_text())
    pooled = report["estimates"]["patient"]["balanced_accuracy"]
    assert f"{100 * pooled['value']:.1f} %<small>{100 * pooled['low']:.1f}-{100 * pooled['high']:.1f}" in page
    for number, fold in enumerate(report["folds"], 1):
        assert f"<td>{number}</td><td>slices</td><td>{fold['slice']['n']}</td>" in page
        assert f"<td>{fold['temperature']:.2f}</td>" in page
        assert f'alt="Fold {number}" src="data:image/png;base64,' in page
    assert "Research use only" in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_run_of_a_version_with_fewer_keys_goes_on(finished: Path, tiny_data: Path) -> None:
    stored = json.loads((finished / "folds.json").read_text())
    del stored["config"]["sampling"]
    (finished / "folds.json").write_text(json.dumps(stored))
    times = {fold: (finished / f"fold-{fold}" / CHECKPOINT).stat().st_mtime_ns for fold in range(3)}
    cross_validate(tiny_data, finished, SHORT, folds=3)
    assert times == {fold: (finished / f"fold-{fold}" / CHECKPOINT).stat().st_mtime_ns for fold in range(3)}


def test_a_finished_fold_is_not_trained_again_and_a_lost_one_is(finished: Path, tiny_data: Path) -> None:
    before = json.loads((finished / "report.json").read_text())
    times = {fold: (finished / f"fold-{fold}" / CHECKPOINT).stat().st_mtime_ns for fold in range(3)}
    (finished / "fold-1" / "out-of-fold.npy").unlink()
    (finished / "fold-1" / CHECKPOINT).unlink()
    again = cross_validate(tiny_data, finished, SHORT, folds=3)
    assert (finished / "fold-0" / CHECKPOINT).stat().st_mtime_ns == times[0]
    assert (finished / "fold-1" / CHECKPOINT).stat().st_mtime_ns > times[1]
    assert again["slice"]["confusion_matrix"] == before["slice"]["confusion_matrix"]


def test_a_folder_made_for_other_settings_is_refused(finished: Path, tiny_data: Path) -> None:
    with pytest.raises(StartError, match="other settings"):
        cross_validate(tiny_data, finished, SHORT, folds=4)
    other = TrainConfig(**{**SHORT.model_dump(), "seed": 8})
    with pytest.raises(StartError, match="other settings"):
        cross_validate(tiny_data, finished, other, folds=3)
    with pytest.raises(StartError, match="other settings"):
        cross_validate(tiny_data, finished, SHORT, folds=3, flip=True)


def test_an_unknown_data_set_is_an_error(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no picture to evaluate"):
        cross_validate(tiny_data, tmp_path / "run", SHORT, folds=3, dataset="nowhere")


def test_folds_on_a_cluster_are_the_folds_without_it(finished: Path, tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(SHORT.model_dump_json())
    command = [
        sys.executable,
        "-m",
        "monai_train",
        "crossval",
        "--data",
        str(tiny_data),
        "--run",
        "run",
        "--folds",
        "3",
    ]
    command += ["--config", "config.json", "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=patience(120))
    assert done.returncode == 0, done.stderr
    assert sorted(re.findall(r"fold (\d) of 3: trained", done.stderr)) == ["1", "2", "3"]
    assert (tmp_path / "run" / "predictions.csv").read_bytes() == (finished / "predictions.csv").read_bytes()


def test_a_fold_that_cannot_be_trained_says_why(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    lost = train_fold(Fold(tiny_data, tmp_path / "run", SHORT, 3, 0, None, False))
    assert lost is not None
    assert lost.reason == "training-fault"
    lost = train_fold(Fold(tmp_path / "nowhere", tmp_path / "other", SHORT, 3, 0, None, False))
    assert lost is not None
    assert "nowhere" in lost.detail
