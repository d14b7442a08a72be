"""A converted folder of synthetic heads and a run that learned them, shared by the tests of train and export."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_train.config import Augmentation, BatchShares, TrainConfig
from monai_train.training.train import train
from tests.testbed.converted import make_converted, with_sequences
from tests.testbed.made_once import copied

TINY = TrainConfig(
    epochs=4,
    samples_per_epoch=192,
    batch=16,
    ema_decay=0.8,
    threads=1,
    external=("outside",),
    test_share=0.3,
    validation_share=0.3,
    shares=BatchShares(mirrored_tumour=0, pasted_lesion=0, simulated_lesion=0, tumour_removed=0, pasted_tissue=0),
    augmentation=Augmentation(invert=0, remap=0, gamma=0.1, bias_field=0.1, rotate_degrees=4, flip=0),
)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-data")
    return copied("tiny-data", folder, lambda made: make_converted(made, patients=14, external=3))


@pytest.fixture(scope="session")
def tiny_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied("tiny-run", tmp_path_factory.mktemp("runs") / "tiny", lambda run: train(tiny_data, run, TINY))


@pytest.fixture(scope="session")
def sequences_data(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_sequences(tiny_data, tmp_path_factory.mktemp("sequences") / "data")


@pytest.fixture(scope="session")
def sequences_run(sequences_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned the sequence and the region, too."""
    config = TINY.model_copy(update={"sequence_loss": 0.3, "region_loss": 0.3, "sampling": "strata"})
    run = tmp_path_factory.mktemp("runs") / "sequences"
    return copied("sequences-run", run, lambda run: train(sequences_data, run, config))
