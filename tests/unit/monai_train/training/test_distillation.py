"""A student follows the mean answer of finished runs, and only of runs that kept the same patients apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from monai_train.data.dataset import load_pictures, read_preprocessing
from monai_train.data.manifest import read_manifest
from monai_train.training.checkpoint import BEST, CHECKPOINT, read_checkpoint, write_checkpoint
from monai_train.training.distillation import Teachers, distillation_loss, files_sha256, load_teachers
from monai_train.training.train import train
from tests.testbed.converted import CLASSES
from tests.unit.monai_train.conftest import TINY
from worker.errors import StartError


def test_teachers_answer_with_their_mean(tiny_run: Path) -> None:
    content = read_checkpoint(tiny_run / BEST)
    split = content.provenance["split_sha256"]
    other = replace(content, average={key: value.clone() for key, value in content.average.items()})
    other.average["net.fc.bias"] += torch.tensor([3.0, 0, 0, 0])
    images = torch.rand(3, 1, 64, 64)
    alone = [load_teachers([one], split, CLASSES, "cpu").probabilities(images) for one in (content, other)]
    together = load_teachers([content, other], split, CLASSES, "cpu").probabilities(images)
    torch.testing.assert_close(together, (alone[0] + alone[1]) / 2)
    assert not torch.allclose(alone[0], alone[1])


def test_distillation_loss_is_least_where_the_student_agrees() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    wanted = torch.softmax(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), dim=1)
    by_hand = (wanted * (wanted.log() - logits.log_softmax(dim=1))).sum(dim=1).mean()
    torch.testing.assert_close(distillation_loss(logits, wanted), by_hand)
    assert distillation_loss(logits, logits.softmax(dim=1).detach()).item() == pytest.approx(0, abs=1e-6)


def test_student_follows_a_teacher_who_always_says_meningioma(tiny_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    content = read_checkpoint(tiny_run / BEST)
    content.average["net.fc.bias"] += torch.tensor([0, 30.0, 0, 0])
    (tmp_path / "teacher").mkdir()
    write_checkpoint(tmp_path / "teacher" / BEST, content)
    config = TINY.model_copy(update={"epochs": 6, "samples_per_epoch": 48, "distillation": 20.0})
    train(tiny_data, tmp_path / "student", config, weights=tiny_run / BEST, teachers=[tmp_path / "teacher"])
    stored = read_checkpoint(tmp_path / "student" / CHECKPOINT)
    assert stored.provenance["teachers_sha256"] == files_sha256([tmp_path / "teacher" / BEST])
    split = stored.provenance["split_sha256"]
    pixels = load_pictures(tiny_data, read_manifest(tiny_data), read_preprocessing()).pixels[::4].float() / 255
    before, after = (
        load_teachers([one], split, CLASSES, "cpu").probabilities(pixels)[:, 1].mean()
        for one in (read_checkpoint(tiny_run / BEST), stored)
    )
    assert after > before + 0.2
    with pytest.raises(StartError, match="teachers_sha256 differs"):
        train(tiny_data, tmp_path / "student", config)


def test_teacher_of_another_split_is_refused(tiny_run: Path) -> None:
    with pytest.raises(StartError, match="another split"):
        load_teachers([read_checkpoint(tiny_run / BEST)], "0" * 64, CLASSES, "cpu")
    assert files_sha256([]) == ""
    assert isinstance(load_teachers([], "", CLASSES, "cpu"), Teachers)
