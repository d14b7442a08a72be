"""Log the figures of every epoch to log.csv and to trackers, pictures to the trackers alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType

from monai_train.training.trackers import TensorBoard, Tracker
from worker.files import write_atomically

LOG = "log.csv"
_COLUMNS = ["epoch", "loss", "validation_balanced_accuracy", "validation_loss"]


class EpochLog:
    """The log of a run, continued after epoch `after`; entries of later epochs by a killed run are replaced."""

    def __init__(self, run: Path, after: int, tracker: Tracker | None = None) -> None:
        self._path = run / LOG
        self._trackers: list[Tracker] = [TensorBoard(run, after), *([tracker] if tracker is not None else [])]

    def __enter__(self) -> EpochLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracker in self._trackers:
            tracker.close()

    def add(
        self,
        epoch: int,
        loss: float,
        figure: float,
        validation_loss: float,
        learning_rate: float,
        rate: float,
        pictures: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Add an epoch: training loss, validation figure and loss, last learning rate and images per second.

        `pictures` are PNG by name.
        """
        lines = _read(self._path, epoch)
        lines.append([str(epoch), f"{loss:.5f}", f"{figure:.5f}", f"{validation_loss:.5f}"])
        table = io.StringIO(newline="")
        csv.writer(table).writerows([_COLUMNS, *lines])
        write_atomically(self._path, table.getvalue())
        figures = {
            "loss/training": loss,
            "loss/validation": validation_loss,
            "validation/balanced_accuracy": figure,
            "learning_rate": learning_rate,
            "images_per_second": rate,
        }
        for tracker in self._trackers:
            for name, value in figures.items():
                tracker.add_figure(name, value, epoch)
            for name, png in pictures.items():
                tracker.add_picture(name, png, epoch)
            tracker.end_epoch()


def _read(path: Path, before: int) -> list[list[str]]:
    try:
        with path.open(newline="") as stream:
            return [line for line in list(csv.reader(stream))[1:] if int(line[0]) < before]
    except FileNotFoundError:
        return []
