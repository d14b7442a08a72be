"""Log the figures of every epoch to log.csv and to TensorBoard."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from worker.files import write_atomically

LOG = "log.csv"
TENSORBOARD = "tensorboard"
_COLUMNS = ["epoch", "loss", "validation_balanced_accuracy", "validation_loss"]


class EpochLog:
    """The log of a run, continued after epoch `after`; entries of later epochs by a killed run are replaced."""

    def __init__(self, run: Path, after: int) -> None:
        self._path = run / LOG
        self._board = SummaryWriter(str(run / TENSORBOARD), purge_step=after + 1)

    def __enter__(self) -> EpochLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._board.close()

    def add(
        self, epoch: int, loss: float, figure: float, validation_loss: float, learning_rate: float, rate: float
    ) -> None:
        """Add an epoch: training loss, validation figure and loss, last learning rate and images per second."""
        lines = _read(self._path, epoch)
        lines.append([str(epoch), f"{loss:.5f}", f"{figure:.5f}", f"{validation_loss:.5f}"])
        table = io.StringIO(newline="")
        csv.writer(table).writerows([_COLUMNS, *lines])
        write_atomically(self._path, table.getvalue())
        for name, value in (
            ("loss/training", loss),
            ("loss/validation", validation_loss),
            ("validation/balanced_accuracy", figure),
            ("learning_rate", learning_rate),
            ("images_per_second", rate),
        ):
            self._board.add_scalar(name, value, epoch)
        self._board.flush()


def _read(path: Path, before: int) -> list[list[str]]:
    try:
        with path.open(newline="") as stream:
            return [line for line in list(csv.reader(stream))[1:] if int(line[0]) < before]
    except FileNotFoundError:
        return []
