"""Data with an official split, and the report of the tiny run on them."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monai_train.cli.app import app
from tests.testbed.made_once import copied


@pytest.fixture(scope="session")
def official_data(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data with an official split that tears patients apart: the second picture of each is its test."""
    folder = tmp_path_factory.mktemp("official") / "data"
    shutil.copytree(tiny_data, folder)
    with (folder / "manifest.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    for line in lines:
        if line["dataset"] == "main":
            line["split"] = "test" if line["path"].endswith("-1.dcm") else "train"
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    return folder


@pytest.fixture(scope="session")
def written(official_data: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def report(out: Path) -> None:
        answer = CliRunner().invoke(
            app,
            ["evaluate", "--run", str(tiny_run), "--data", str(official_data), "--report", str(out)],
            catch_exceptions=False,
        )
        assert answer.exit_code == 0
        assert "report.html" in answer.output

    return copied("official-report", tmp_path_factory.mktemp("report"), report)
