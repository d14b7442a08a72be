"""What export reads of a run, and the mean of several runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from monai_train.cli.app import app
from monai_train.export.export import export
from monai_train.export.run_inputs import average_runs, read_run
from monai_train.training.checkpoint import BEST, read_checkpoint, write_checkpoint
from tests.testbed.converted import make_converted
from tests.unit.monai_train.conftest import TINY
from worker.errors import StartError


def test_other_data_is_refused_after_the_checkpoint_was_read_once(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_converted(tmp_path / "other", patients=3, external=0)
    read, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda path, **options: read.append(path) or load(path, **options))
    with pytest.raises(StartError, match="does not hold the data"):
        export(tiny_run, other, tmp_path / "bundle", "x", "0")
    assert read == [tiny_run / BEST]


def test_mean_of_runs_from_one_beginning_is_exported(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    """The same weights twice, moved apart by a little: their mean is the run itself, with its norms measured again."""
    content = read_checkpoint(tiny_run / BEST)
    weight = content.average["net.fc.weight"]
    step = 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    for name, sign in (("a", 1), ("b", -1)):
        moved = {**content.average, "net.fc.weight": weight + sign * step}
        (tmp_path / name).mkdir()
        write_checkpoint(tmp_path / name / BEST, replace(content, average=moved))
    inputs = read_run(tmp_path / "a", tiny_data)
    merged = average_runs(inputs, tmp_path / "a", [tmp_path / "b"], Console(quiet=True))
    assert merged.provenance["averaged_runs"] == "2"
    torch.testing.assert_close(merged.model.net.fc.weight.detach(), weight)
    assert not torch.equal(merged.model.net.bn1.running_mean, content.average["net.bn1.running_mean"])
    assert not merged.model.training


def test_mean_that_is_worse_and_runs_that_do_not_fit_are_refused(
    tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    content = read_checkpoint(tiny_run / BEST)
    # The mean of these and the run's own is nothing.
    opposite = {key: -value if value.ndim > 1 else value for key, value in content.average.items()}
    for name, weights, network in (("far", opposite, "resnet18-slim"), ("other", opposite, "resnet18")):
        (tmp_path / name).mkdir()
        config = TINY.model_copy(update={"network": network})
        write_checkpoint(tmp_path / name / BEST, replace(content, average=weights, config=config))
    inputs = read_run(tiny_run, tiny_data)
    with pytest.raises(StartError, match=r"mean of the weights reaches 0\.\d+"):
        average_runs(inputs, tiny_run, [tmp_path / "far"], Console(quiet=True))
    with pytest.raises(StartError, match="another network or split"):
        average_runs(inputs, tiny_run, [tmp_path / "other"], Console(quiet=True))
    answer = CliRunner().invoke(app, ["export", "--run", "a", "--run", "b", "--data", "c", "--out", "d"])
    assert isinstance(answer.exception, StartError)
    assert "--average" in answer.exception.detail


def test_pictures_of_training_and_validation_are_deduplicated_and_apart(tiny_run: Path, tiny_data: Path) -> None:
    inputs = read_run(tiny_run, tiny_data)
    groups = [{row.patient_group for row in part.rows} for part in (inputs.training, inputs.validation)]
    assert groups[0]
    assert groups[1]
    assert not groups[0] & groups[1]
    for part in (inputs.training, inputs.validation):
        pictures = [row.picture_group for row in part.rows]
        assert len(set(pictures)) == len(pictures)
        assert {row.dataset for row in part.rows} == {"main"}
    assert inputs.healthy.shape[0] == 0


def test_a_network_for_comparison_only_is_not_exported(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    content = read_checkpoint(tiny_run / BEST)
    write_checkpoint(tmp_path / BEST, replace(content, config=TINY.model_copy(update={"network": "c-linear"})))
    with pytest.raises(StartError, match="c-linear is for comparison only; the worker serves resnet18"):
        read_run(tmp_path, tiny_data)
