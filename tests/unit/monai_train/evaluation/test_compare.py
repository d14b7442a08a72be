"""Models are compared on the same patients, and only where the same patients were kept apart."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monai_train.cli.app import app
from monai_train.data.manifest import read_manifest
from monai_train.data.patients import SplitRole
from monai_train.evaluation.compare import FIGURES, compare, comparison_markdown
from monai_train.evaluation.evaluate import run_split, select_pictures
from monai_train.training.train import train
from tests.testbed.tiny_bundle import make_tiny_bundle
from tests.unit.monai_train.conftest import TINY
from worker.errors import StartError


@pytest.fixture(scope="module")
def weak_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "weak"
    train(tiny_data, run, TINY.model_copy(update={"epochs": 1, "samples_per_epoch": 16}))
    return run


def test_differences_are_paired_and_from_the_first(tiny_data: Path, tiny_run: Path, weak_run: Path) -> None:
    found = compare([tiny_run, weak_run, tiny_run], tiny_data)["slice"]
    rows = read_manifest(tiny_data)
    kept = select_pictures(rows, run_split(tiny_run).roles(rows), SplitRole.TEST, deduplicated=True)
    assert found[0].figures["accuracy"].n == len(kept)
    assert found[0].differences is None
    assert found[1].differences is not None
    assert found[2].differences is not None
    expected = found[1].figures["accuracy"].value - found[0].figures["accuracy"].value
    assert found[1].differences["accuracy"].value == pytest.approx(expected)
    same = found[2].differences["accuracy"]
    assert (same.value, same.low) == (0, pytest.approx(-(same.high or 0)))
    assert 0 < (same.high or 0) < 0.2  # on other patients they may differ


def test_the_table_is_markdown_too(tiny_data: Path, tiny_run: Path, weak_run: Path) -> None:
    models = compare([tiny_run, weak_run], tiny_data)["slice"]
    heading, _, head, _, *rows = comparison_markdown("Slices", models).splitlines()
    assert heading == "### Slices"
    assert "minus tiny (95 %)" in head
    assert len(rows) == 2 * len(FIGURES)
    cells = [cell.strip() for cell in rows[1].strip("|").split("|")]
    assert cells[:3] == ["balanced accuracy", str(models[1].figures["balanced_accuracy"].n), "weak"]
    assert f"{models[1].differences['balanced_accuracy'].value:+.3f} (" in cells[4]


def test_command_writes_table_json_and_plot(tiny_data: Path, tiny_run: Path, weak_run: Path, tmp_path: Path) -> None:
    files = ["--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png")]
    answer = CliRunner().invoke(app, ["compare", str(tiny_run), str(weak_run), "--data", str(tiny_data), *files])
    assert answer.exit_code == 0, answer.output
    assert "balanced accuracy" in answer.output
    assert "minus tiny" in answer.output
    stored = json.loads((tmp_path / "a.json").read_text())
    assert [model["name"] for model in stored["patient"]] == ["tiny", "weak"]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_other_patients_apart_are_refused(tiny_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    train(tiny_data, other, TINY.model_copy(update={"epochs": 1, "samples_per_epoch": 16, "test_share": 0.4}))
    with pytest.raises(StartError, match="same patients"):
        compare([tiny_run, other], tiny_data)


def test_a_model_of_other_data_is_refused(tiny_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(tiny_data, copy)
    lines = (copy / "manifest.csv").read_text().splitlines(keepends=True)
    (copy / "manifest.csv").write_text("".join(lines[:-1]))
    with pytest.raises(StartError, match="other data"):
        compare([tiny_run, tiny_run], copy)


def test_a_bundle_without_a_split_is_refused(tiny_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    with pytest.raises(StartError, match="does not say"):
        compare([bundle, tiny_run], tiny_data)


def test_one_model_is_no_comparison(tiny_data: Path, tiny_run: Path) -> None:
    with pytest.raises(StartError, match="two models"):
        compare([tiny_run], tiny_data)
