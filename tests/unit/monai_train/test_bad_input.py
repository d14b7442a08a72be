"""Data that do not fit are one clear error before anything is trained, or are recorded in the figures.

Elsewhere: an empty class, a corrupt checkpoint, weights of another network, a full disk and a loss that is no number in
test_train; an interrupted search in test_search.
"""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from monai_train.cli.app import app
from monai_train.data.manifest import read_manifest
from monai_train.data.patients import SplitRole, split_roles
from monai_train.evaluation.evaluate import Measurement, measure_bundle, select_pictures
from monai_train.evaluation.metrics import Predictions
from monai_train.evaluation.tables import report_table
from monai_train.training.train import train
from tests.testbed.converted import CLASSES
from tests.unit.monai_train.conftest import TINY
from worker.errors import StartError
from worker.inference.bundle import default_bundle


def test_class_missing_in_the_validation_split_is_named(tiny_data: Path, tmp_path: Path) -> None:
    rows = read_manifest(tiny_data)
    roles = split_roles(rows, TINY.external, TINY.test_share, TINY.validation_share)
    roles = tuple(SplitRole.TRAIN if row.label == "meningioma" else role for row, role in zip(rows, roles, strict=True))
    with pytest.raises(StartError, match="class meningioma has no picture in the validation split"):
        train(tiny_data, tmp_path, TINY, roles=roles)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_class_missing_in_the_test_split_has_no_figure_of_its_own() -> None:
    probabilities = np.eye(4, dtype=np.float32)[[0, 0, 2, 3, 1]]
    groups = np.array(list("abcde"))
    answers = Predictions(CLASSES, np.array([0, 0, 2, 3, 3]), probabilities, groups, np.ones(5, bool))
    found = Measurement(answers, answers).to_json()
    assert found["slice"]["per_class"]["meningioma"]["support"] == 0
    assert found["slice"]["per_class"]["meningioma"]["recall"] is None
    assert found["slice"]["balanced_accuracy"] == pytest.approx((1 + 1 + 0.5) / 3)  # of the classes that are there
    console = Console(width=100, record=True)
    console.print(report_table("x", found))
    assert "- (n=0)" in console.export_text()
    json.dumps(found, allow_nan=False)


def test_a_part_without_pictures_is_an_error(tiny_data: Path) -> None:
    rows = read_manifest(tiny_data)
    with pytest.raises(StartError, match="no picture has the role test"):
        select_pictures(rows, [SplitRole.TRAIN] * len(rows), SplitRole.TEST, deduplicated=False)


def test_a_class_with_too_few_pictures_is_named(tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data, tmp_path, dirs_exist_ok=True)
    with (tiny_data / "manifest.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    lines[3]["label"] = "abscess"
    with (tmp_path / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    with pytest.raises(StartError, match="class abscess has "):
        train(tmp_path, tmp_path / "run", TINY)


def test_tumours_of_unknown_kind_are_evaluated_and_calibrated(tiny_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    """Data that only say `tumor`, all of them: it is no class of the network, and the temperature is fitted on some."""
    copy = tmp_path / "data"
    shutil.copytree(tiny_data, copy)
    with (copy / "manifest.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    with (copy / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, lines[0])
        writer.writeheader()
        writer.writerows({**line, "label": "notumor" if line["label"] == "notumor" else "tumor"} for line in lines)
    file, report = tmp_path / "figures.json", tmp_path / "report"
    arguments = ["evaluate", "--run", str(tiny_run), "--data", str(copy), "--json", str(file), "--role", "all"]
    arguments += ["--report", str(report)]
    answer = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert answer.exit_code == 0
    found = json.loads(file.read_text())
    assert found["slice"]["per_class"]["tumor"]["support"] == sum(line["label"] != "notumor" for line in lines)
    assert found["slice"]["ece"] < 0.5
    assert found["part"]["name"] == "all"
    assert "kinds of tumour unknown" in (report / "report.html").read_text()


def test_a_lesion_that_the_bundle_has_no_class_for_is_one_of_unknown_kind(tiny_data: Path) -> None:
    rows = [row for row in read_manifest(tiny_data) if row.label in ("glioma", "notumor")][:40:4]
    rows = [replace(row, label="abscess" if row.label == "glioma" else row.label) for row in rows]
    found = measure_bundle(default_bundle(), tiny_data, rows).to_json()
    assert found["labels"] == ["glioma", "meningioma", "pituitary", "other", "notumor", "tumor"]
    assert found["slice"]["per_class"]["tumor"]["support"] == found["binary"]["n_tumour"] > 0
