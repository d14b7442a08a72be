"""The log of a run holds every epoch once, also after a kill between two epochs."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_train.training.epoch_log import LOG, EpochLog
from monai_train.training.trackers import TENSORBOARD
from tests.testbed.waiting import wait_until


def lines(run: Path) -> list[list[str]]:
    return list(csv.reader((run / LOG).read_text().splitlines()))


def test_epochs_are_appended_and_read_back(tmp_path: Path) -> None:
    with EpochLog(tmp_path, 0) as log:
        log.add(1, 0.9, 0.25, 1.5, 1e-3, 100.0)
        log.add(2, 0.5, 0.75, 1.0, 2e-3, 110.0)
    assert lines(tmp_path) == [
        ["epoch", "loss", "validation_balanced_accuracy", "validation_loss"],
        ["1", "0.90000", "0.25000", "1.50000"],
        ["2", "0.50000", "0.75000", "1.00000"],
    ]


def test_epochs_after_the_checkpoint_are_replaced(tmp_path: Path) -> None:
    with EpochLog(tmp_path, 0) as log:
        for epoch in (1, 2, 3):
            log.add(epoch, 9.0, 0.1, 9.0, 1e-3, 1.0)
    begun = int(time.time())
    wait_until(lambda: time.time() > begun + 1, "a later second: TensorBoard orders the files of a run by theirs")
    with EpochLog(tmp_path, 1) as log:
        log.add(2, 0.5, 0.75, 1.0, 2e-3, 110.0)
    assert [line[:2] for line in lines(tmp_path)[1:]] == [["1", "9.00000"], ["2", "0.50000"]]
    reader = EventAccumulator(str(tmp_path / TENSORBOARD))
    reader.Reload()
    shown = {event.step: event.value for event in reader.Scalars("loss/training")}
    assert shown == {1: pytest.approx(9.0), 2: pytest.approx(0.5)}


def test_tensorboard_holds_what_the_log_holds(tiny_run: Path) -> None:
    reader = EventAccumulator(str(tiny_run / TENSORBOARD))
    reader.Reload()
    lines = list(csv.DictReader((tiny_run / LOG).read_text().splitlines()))
    for name, column in (("loss/training", "loss"), ("validation/balanced_accuracy", "validation_balanced_accuracy")):
        shown = [(one.step, pytest.approx(one.value, abs=1e-4)) for one in reader.Scalars(name)]
        assert [(int(line["epoch"]), float(line[column])) for line in lines] == shown
