"""`export` averages several runs or exports a single run, and `retrain` starts from a bundle that it can train."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from monai_train.cli.app import app
from tests.testbed.tiny_bundle import make_tiny_bundle
from worker.errors import StartError


@pytest.mark.parametrize("runs", [["--run", "a", "--run", "b"], ["--run", "a", "--average"]])
def test_several_runs_and_average_go_together(runs: list[str]) -> None:
    answer = CliRunner().invoke(app, ["export", *runs, "--data", "c", "--out", "d"])
    assert isinstance(answer.exception, StartError)
    assert "--average needs several --run options" in answer.exception.detail


def test_retrain_refuses_a_bundle_without_a_split(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    command = ["retrain", "--bundle", str(bundle), "--data", "d", "--from-worker", "w", "--run", "r", "--out", "o"]
    answer = CliRunner().invoke(app, [*command, "--version", "2"])
    assert isinstance(answer.exception, StartError)
    assert "does not say how its training data were split" in answer.exception.detail
