"""Trackers get the figures and pictures of a run: TensorBoard always, MLflow and Weights & Biases where installed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from monai_train.cli.app import app
from monai_train.config import TrackerName
from monai_train.training import trackers
from monai_train.training.epoch_log import EpochLog
from tests.unit.monai_train.conftest import TINY
from worker.errors import StartError


def picture(size: tuple[int, int] = (8, 6)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, "red").save(stream, "PNG")
    return stream.getvalue()


def test_training_by_the_command_shows_pictures_in_tensorboard(tiny_data: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(TINY.model_copy(update={"epochs": 2, "samples_per_epoch": 64}).model_dump_json())
    command = ["train", "--data", str(tiny_data), "--run", str(tmp_path / "run"), "--config", str(config)]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    reader = EventAccumulator(str(tmp_path / "run" / trackers.TENSORBOARD), size_guidance={"images": 0})
    reader.Reload()
    names = ["training/samples", "validation/confusion", "validation/maps", "validation/roc"]
    assert sorted(reader.Tags()["images"]) == names
    for name in names:
        events = reader.Images(name)
        assert [event.step for event in events] == [1, 2]
        assert all(min(Image.open(io.BytesIO(event.encoded_image_string)).size) > 100 for event in events)


def test_a_tracker_that_is_not_installed_is_named_before_training(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    command = ["train", "--data", str(tiny_data), "--run", str(tmp_path / "run"), "--tracker", "mlflow"]
    with pytest.raises(StartError, match="pip install mlflow"):
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # SQLAlchemy, of MLflow's store
@pytest.mark.parametrize("name", list(TrackerName))
def test_a_run_is_resumed_in_the_same_tracked_run(name: TrackerName, tmp_path: Path) -> None:
    """Offline: nothing is configured."""
    pytest.importorskip(name.value)
    for after in (0, 1):
        with EpochLog(tmp_path, after, trackers.open_tracker(name, tmp_path, {"epochs": 2})) as log:
            log.add(after + 1, 0.9, 0.25, 1.5, 1e-3, 100.0, {"validation/roc": picture()})
    if name is TrackerName.WANDB:
        assert len({path.name.rpartition("-")[2] for path in (tmp_path / "wandb").glob("offline-run-*")}) == 1
        return
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [run] = client.search_runs([client.get_experiment_by_name(trackers.PROJECT).experiment_id])
    assert run.data.params == {"epochs": "2"}
    assert [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss/training")] == [
        (1, 0.9),
        (2, 0.9),
    ]
    assert len(client.list_artifacts(run.info.run_id, "images")) >= 2
