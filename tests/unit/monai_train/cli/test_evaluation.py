"""The commands that measure refuse what does not go together before they read any data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monai_train.cli.app import app
from monai_train.data.manifest import read_manifest
from worker.errors import StartError


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["evaluate"], "give either --bundle or --run"),
        (["evaluate", "--bundle", "b", "--run", "r"], "give either --bundle or --run"),
        (["evaluate", "--bundle", "b", "--precision", "int4"], "--precision is int8 or fp32"),
        (["evaluate", "--bundle", "b", "--role", "overlapping"], "--role is one of train, validation, test, external"),
        (["compare", "a", "b", "--role", "train"], "--role is test, validation or external"),
        (["compare", "a", "b", "--precision", "int4"], "--precision is int8 or fp32"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments: list[str], fault: str) -> None:
    answer = CliRunner().invoke(app, [*arguments, "--data", "absent"])
    assert isinstance(answer.exception, StartError)
    assert fault in answer.exception.detail


@pytest.mark.parametrize("command", ["crossval", "seeds"])
def test_missing_data_are_one_line(command: str, tmp_path: Path) -> None:
    data = ["--data", str(tmp_path)] if command == "crossval" else [str(tmp_path / "absent")]
    option = "--run" if command == "crossval" else "--out"
    answer = CliRunner().invoke(app, [command, *data, option, str(tmp_path / "out")])
    assert isinstance(answer.exception, StartError), answer.output


def test_seeds_refuses_weights_without_a_network(tmp_path: Path, tiny_data: Path) -> None:
    command = ["seeds", str(tiny_data), "--out", str(tmp_path / "out"), "--weights", "vgg16.pth"]
    answer = CliRunner().invoke(app, command)
    assert isinstance(answer.exception, StartError)
    assert "NETWORK=FILE" in answer.exception.detail


def test_copies_are_counted_once_with_deduplicate(tiny_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    command = ["evaluate", "--run", str(tiny_run), "--data", str(tiny_data), "--json"]
    answer = CliRunner().invoke(app, [*command, str(tmp_path / "a.json"), "--deduplicate"], catch_exceptions=False)
    assert answer.exit_code == 0
    assert "balanced accuracy" in answer.output
    assert "measured: the test part" in answer.output
    part = json.loads((tmp_path / "a.json").read_text())["part"]
    assert (part["name"], part["of"]) == ("test", len(read_manifest(tiny_data)))
