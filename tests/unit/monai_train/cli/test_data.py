"""`convert`, `explore` and `audit` pass their options on and print where the result is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from monai_train.cli.app import app
from worker.errors import StartError


@pytest.fixture
def src(tmp_path: Path) -> Path:
    for number, name in enumerate(("Training/glioma/a.png", "Testing/glioma/b.png", "Training/no/c.png")):
        path = tmp_path / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(max(number, 1)).integers(0, 255, (64, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "src"


def test_convert_then_audit_and_explore(src: Path, tmp_path: Path) -> None:
    converted = tmp_path / "converted"
    answer = CliRunner().invoke(app, ["convert", str(src), str(converted)], catch_exceptions=False)
    assert f"manifest: {converted / 'manifest.csv'}" in answer.output
    audited = tmp_path / "audit.json"
    answer = CliRunner().invoke(app, ["audit", str(converted), "--json", str(audited)], catch_exceptions=False)
    assert "Images known from training" in answer.output
    assert json.loads(audited.read_text())["n"] == 3
    answer = CliRunner().invoke(app, ["explore", str(converted), "--out", str(tmp_path / "r")], catch_exceptions=False)
    assert f"report: {tmp_path / 'r' / 'report.html'}" in answer.output
    assert (tmp_path / "r" / "report.html").exists()


@pytest.mark.parametrize("option", [["--groups", "g.csv"], ["--labels", "l.csv"], ["--audit"]])
def test_export_of_a_worker_brings_labels_and_groups_of_its_own(option: list[str], tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["convert", str(tmp_path), str(tmp_path / "out"), "--from-worker", *option])
    assert isinstance(answer.exception, StartError)
    assert "omit --groups, --labels and --audit" in answer.exception.detail


def test_salt_comes_from_the_environment_too(src: Path, tmp_path: Path) -> None:
    converted = tmp_path / "converted"
    CliRunner().invoke(app, ["convert", str(src), str(converted)], catch_exceptions=False)
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "path,label\n" + "".join(f"{path.relative_to(converted)},no\n" for path in converted.rglob("*.dcm"))
    )
    groups = []
    for number, environment in enumerate(({}, {"MONAI_TRAIN_SALT": "own"})):
        out = tmp_path / f"again-{number}"
        command = ["convert", str(converted), str(out), "--labels", str(labels)]
        CliRunner().invoke(app, command, env=environment, catch_exceptions=False)
        lines = (out / "manifest.csv").read_text().splitlines()[1:]
        groups.append({line.split(",")[3] for line in lines})
    assert len(groups[0]) == len(groups[1]) == 2  # a and b have the same pixels
    assert not groups[0] & groups[1]
