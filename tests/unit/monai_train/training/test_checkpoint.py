"""A checkpoint is written whole, says where it comes from, and is resumed only by the run that it belongs to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from monai_train.training.checkpoint import BEST, CHECKPOINT, read_checkpoint, save, write_checkpoint
from monai_train.training.train import new_state, train
from tests.testbed.converted import CLASSES
from tests.testbed.full_disk import files_limited_to
from tests.unit.monai_train.conftest import TINY
from worker.errors import StartError


def test_checkpoint_says_where_it_comes_from(tiny_run: Path) -> None:
    content = read_checkpoint(tiny_run / BEST)
    assert content.config == TINY
    assert {"data_sha256", "split_sha256", "commit"} <= content.provenance.keys()


def test_run_folder_of_another_config_is_refused(tiny_data: Path, tiny_run: Path) -> None:
    with pytest.raises(StartError, match="another seed"):
        train(tiny_data, tiny_run, TINY.model_copy(update={"seed": 8}))


def test_damaged_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(StartError, match="not a complete checkpoint"):
        read_checkpoint(tmp_path / CHECKPOINT)
    with pytest.raises(StartError, match="cannot read"):
        read_checkpoint(tmp_path / "absent.pt")


def test_full_disk_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    state = new_state(TINY, CLASSES)
    path = tmp_path / CHECKPOINT
    save(path, state, TINY, {})
    before = path.read_bytes()
    with files_limited_to(len(before) // 2), pytest.raises(OSError, match="File too large"):
        save(path, state, TINY, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_changed_part_of_the_configuration_is_named(tiny_data: Path, tiny_run: Path) -> None:
    shares = TINY.shares.model_copy(update={"tumour": 0.9})
    with pytest.raises(StartError, match="another shares"):
        train(tiny_data, tiny_run, TINY.model_copy(update={"shares": shares}))


def test_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    state = new_state(TINY, CLASSES)
    state.epoch, state.best, state.best_epoch = 3, 0.5, 2
    save(tmp_path / CHECKPOINT, state, TINY, {"commit": "abc"})
    stored = read_checkpoint(tmp_path / CHECKPOINT)
    assert (stored.epoch, stored.best, stored.best_epoch) == (3, 0.5, 2)
    assert (stored.config, stored.provenance) == (TINY, {"commit": "abc"})
    model = stored.classifier()
    assert not model.training
    image = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(image).logits, state.average.cpu().eval()(image).logits)
    write_checkpoint(tmp_path / BEST, stored)
    assert (tmp_path / BEST).read_bytes() == (tmp_path / CHECKPOINT).read_bytes()


def test_stored_keys_stay_as_earlier_runs_wrote_them(tmp_path: Path) -> None:
    save(tmp_path / CHECKPOINT, new_state(TINY, CLASSES), TINY, {})
    content = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert set(content) == {
        "model", "average", "optimizer", "epoch", "best", "best_epoch", "config", "provenance",
        "classes",
    }  # fmt: skip
    assert {"network", "shares", "augmentation", "ema_decay", "healthy_share", "map_loss"} <= json.loads(
        content["config"]
    ).keys()


def test_configuration_of_another_version_names_its_key(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    save(path, new_state(TINY, CLASSES), TINY, {})
    content = torch.load(path, weights_only=True)
    config = json.loads(content["config"])
    torch.save({**content, "config": json.dumps({**config, "future": 1})}, path)
    with pytest.raises(StartError, match=r"another version: unknown or invalid future"):
        read_checkpoint(path)
    torch.save({key: value for key, value in content.items() if key != "provenance"}, path)
    with pytest.raises(StartError, match="not a complete checkpoint"):
        read_checkpoint(path)
