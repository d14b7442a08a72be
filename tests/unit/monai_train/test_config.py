"""A configuration is read with its overrides, and a fault names its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_train.config import read_config
from worker.errors import StartError


def test_configuration_faults_name_the_key(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"epochs": 3, "augmentation": {"flipp": 1}}')
    with pytest.raises(StartError, match=r"augmentation\.flipp"):
        read_config(file)
    file.write_text("{")
    with pytest.raises(StartError, match="not JSON"):
        read_config(file)
    file.write_text('{"epochs": 3}')
    assert read_config(file, epochs=5, seed=None).epochs == 5


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot read"):
        read_config(tmp_path / "absent.json")


def test_defaults_hold_without_a_file() -> None:
    config = read_config(None, threads=3)
    assert (config.network, config.threads, config.external) == ("resnet18-slim", 3, ("navoneel",))
    assert sum(share for _, share in config.shares) == pytest.approx(1)
