"""Where the figures and pictures of a run go beside log.csv: TensorBoard, and MLflow or Weights & Biases on request.

The latter two must be installed. They write into the folder of the run; their own environment variables
(MLFLOW_TRACKING_URI, WANDB_MODE=online) name a server instead.
"""

from __future__ import annotations

import io
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from monai_train.config import TrackerName
from worker.errors import StartError
from worker.files import write_atomically

TENSORBOARD = "tensorboard"
PROJECT = "monai-train"


class Tracker(Protocol):
    """Takes what is known of an epoch."""

    def add_figure(self, name: str, value: float, epoch: int) -> None: ...

    def add_picture(self, name: str, png: bytes, epoch: int) -> None: ...

    def end_epoch(self) -> None:
        """Make what was added visible to others."""

    def close(self) -> None: ...


class TensorBoard:
    """Event files in RUN/tensorboard; what they hold after epoch `after` is left out of the charts."""

    def __init__(self, run: Path, after: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(run / TENSORBOARD), purge_step=after + 1)

    def add_figure(self, name: str, value: float, epoch: int) -> None:
        self._board.add_scalar(name, value, epoch)

    def add_picture(self, name: str, png: bytes, epoch: int) -> None:
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        self._board.add_image(name, pixels, epoch, dataformats="HWC")

    def end_epoch(self) -> None:
        self._board.flush()

    def close(self) -> None:
        self._board.close()


class Mlflow:
    """A run of the experiment "monai-train" in RUN/mlflow.db, or at MLFLOW_TRACKING_URI; resumed with the run."""

    def __init__(self, run: Path, settings: dict[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        folder = run.resolve()
        served = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(served or f"sqlite:///{folder}/mlflow.db")
        experiment = self._client.get_experiment_by_name(PROJECT)
        artifacts = None if served else (folder / "mlflow").as_uri()
        number = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT, artifacts)
        known = _stored_id(run, TrackerName.MLFLOW)
        self._id = known or self._client.create_run(number, run_name=run.name).info.run_id
        if known is None:
            _store_id(run, TrackerName.MLFLOW, self._id)
            self._client.log_batch(self._id, params=[Param(key, str(value)) for key, value in settings.items()])

    def add_figure(self, name: str, value: float, epoch: int) -> None:
        self._client.log_metric(self._id, name, value, step=epoch)

    def add_picture(self, name: str, png: bytes, epoch: int) -> None:
        self._client.log_image(self._id, Image.open(io.BytesIO(png)), key=name.replace("/", "."), step=epoch)

    def end_epoch(self) -> None:
        pass

    def close(self) -> None:
        self._client.set_terminated(self._id)


class Wandb:
    """A run of the project "monai-train" in RUN/wandb, offline unless WANDB_MODE says otherwise (`wandb sync`)."""

    def __init__(self, run: Path, settings: dict[str, Any]) -> None:
        import wandb

        known = _stored_id(run, TrackerName.WANDB)
        self._run = wandb.init(
            project=PROJECT,
            name=run.name,
            id=known,
            resume="allow" if known else None,
            dir=str(run),
            config=settings,
            mode=os.environ.get("WANDB_MODE", "offline"),
        )
        if known is None:
            _store_id(run, TrackerName.WANDB, self._run.id)
        self._waiting: dict[str, Any] = {}
        self._epoch = 0

    def add_figure(self, name: str, value: float, epoch: int) -> None:
        self._waiting[name] = value
        self._epoch = epoch

    def add_picture(self, name: str, png: bytes, epoch: int) -> None:
        import wandb

        self._waiting[name] = wandb.Image(Image.open(io.BytesIO(png)))

    def end_epoch(self) -> None:
        self._run.log(self._waiting, step=self._epoch)
        self._waiting = {}

    def close(self) -> None:
        self._run.finish()


_MADE: dict[TrackerName, type[Mlflow | Wandb]] = {TrackerName.MLFLOW: Mlflow, TrackerName.WANDB: Wandb}


def open_tracker(name: TrackerName, run: Path, settings: dict[str, Any]) -> Tracker:
    """The tracker of this name, with the settings of the run. Raises StartError if it is not installed."""
    require_tracker(name)
    return _MADE[name](run, settings)


def require_tracker(name: TrackerName) -> None:
    """Raises StartError if the tracker is not installed."""
    if find_spec(name.value) is None:
        raise StartError("tracker-missing", f"{name} is not installed: pip install {name}, or train without --tracker")


def _stored_id(run: Path, name: TrackerName) -> str | None:
    try:
        return (run / f"{name}.id").read_text().strip() or None
    except FileNotFoundError:
        return None


def _store_id(run: Path, name: TrackerName, number: str) -> None:
    write_atomically(run / f"{name}.id", f"{number}\n")
