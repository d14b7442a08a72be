"""`train` and `search` end with one line where they cannot start or write."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from monai_train.cli.app import app
from monai_train.training.checkpoint import BEST, CHECKPOINT, read_checkpoint
from monai_train.training.train import train
from tests.testbed.full_disk import files_limited_to
from tests.unit.monai_train.conftest import TINY
from worker.errors import StartError


def test_full_disk_is_one_line_of_the_command(tiny_data: Path, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"epochs": 1, "samples_per_epoch": 32})
    (tmp_path / "config.json").write_text(config.model_dump_json())
    run = tmp_path / "run"
    train(tiny_data, run, config)
    before = (run / CHECKPOINT).read_bytes()
    (run / CHECKPOINT).rename(tmp_path / "kept.pt")  # so that the epoch is trained again
    command = ["train", "--data", str(tiny_data), "--run", str(run), "--config", str(tmp_path / "config.json")]
    with files_limited_to(len(before) // 2):
        answer = CliRunner().invoke(app, command)
    assert isinstance(answer.exception, StartError)
    assert "File too large" in answer.exception.detail
    assert (tmp_path / "kept.pt").read_bytes() == before
    assert read_checkpoint(run / BEST).epoch == 1  # the last good one


def test_loss_that_is_not_a_number_is_one_line_of_the_command(tiny_data: Path, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"learning_rate": 1e30, "epochs": 2, "samples_per_epoch": 32})
    (tmp_path / "config.json").write_text(config.model_dump_json())
    command = ["train", "--data", str(tiny_data), "--run", str(tmp_path / "run")]
    answer = CliRunner().invoke(app, [*command, "--config", str(tmp_path / "config.json")])
    assert isinstance(answer.exception, StartError)
    assert "try a lower learning rate" in answer.exception.detail


@pytest.mark.parametrize("command", ["train", "search"])
def test_unknown_key_of_the_configuration_is_named(command: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"epoch": 3}')
    answer = CliRunner().invoke(app, [command, "--data", "x", "--config", str(tmp_path / "config.json")])
    assert isinstance(answer.exception, StartError)
    assert "training configuration, epoch" in answer.exception.detail


def test_a_search_on_machines_of_others_needs_a_database_that_they_reach() -> None:
    answer = CliRunner().invoke(app, ["search", "--data", "x", "--scheduler", "tcp://127.0.0.1:1"])
    assert isinstance(answer.exception, StartError)
    assert answer.exception.detail == "--scheduler needs --storage: a database that every machine reaches"
