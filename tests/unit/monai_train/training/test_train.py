"""Training learns, resumes exactly after SIGKILL, keeps the last good checkpoint and says plainly what is wrong."""

from __future__ import annotations

import csv
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch.nn import functional

from monai_train.config import TrainConfig
from monai_train.data.dataset import load_pictures, read_preprocessing
from monai_train.data.labels import UNLABELLED
from monai_train.data.manifest import REGIONS, SEQUENCES, read_manifest
from monai_train.data.patients import SplitRole, split_roles
from monai_train.networks.outputs import OutputLayout
from monai_train.networks.pretrained import load_weights
from monai_train.training.checkpoint import BEST, CHECKPOINT, read_checkpoint
from monai_train.training.epoch_log import LOG
from monai_train.training.sampling import make_sampler
from monai_train.training.train import (
    DivergedError,
    activation_map_loss,
    class_weights,
    classification_loss,
    known_loss,
    learning_rate,
    new_state,
    train,
    train_epoch,
)
from tests.testbed.converted import CLASSES
from tests.testbed.waiting import wait_until
from tests.unit.monai_train.conftest import TINY
from worker.errors import StartError


def test_training_learns_the_classes(tiny_run: Path) -> None:
    lines = list(csv.DictReader((tiny_run / "log.csv").read_text().splitlines()))
    assert len(lines) == TINY.epochs
    assert max(float(line["validation_balanced_accuracy"]) for line in lines) >= 0.9


def test_map_loss_asks_for_evidence_on_the_marked_tumour() -> None:
    tumours = torch.zeros(3, 1, 16, 16)
    tumours[:2, :, 4:8, 8:12] = 1  # the cell of row 1 and column 2 of 4
    labels = torch.tensor([0, CLASSES.any_tumour, 3])
    there, elsewhere = torch.zeros(3, 4, 4, 4), torch.zeros(3, 4, 4, 4)
    there[:, :2, 1, 2] = 8
    elsewhere[:, :2, 3, 0] = 8
    assert activation_map_loss(there, labels, tumours, CLASSES) < 0.1
    assert activation_map_loss(elsewhere, labels, tumours, CLASSES) > 5
    assert activation_map_loss(elsewhere[2:], labels[2:], tumours[2:], CLASSES) == 0  # nothing is marked


def test_network_without_maps_refuses_the_map_loss(tiny_data: Path, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"network": "c-linear", "map_loss": 0.5})
    with pytest.raises(StartError, match="no activation maps"):
        train(tiny_data, tmp_path / "run", config)


def test_resume_after_sigkill_is_exact(tiny_data: Path, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"epochs": 3, "samples_per_epoch": 64})
    (tmp_path / "config.json").write_text(config.model_dump_json())
    command = [sys.executable, "-m", "monai_train", "train", "--data", str(tiny_data), "--config"]
    command += [str(tmp_path / "config.json"), "--run", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:

        def written() -> bool:
            assert process.poll() is None
            return (tmp_path / "killed" / CHECKPOINT).exists()

        wait_until(written, "a checkpoint", every=0.02)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    done = read_checkpoint(tmp_path / "killed" / CHECKPOINT).epoch
    assert done < 3
    with (tmp_path / "killed" / LOG).open("a") as stream:
        stream.write(f"{done + 1},9,9,9\r\n")  # as a kill between the log and the checkpoint would leave it
    train(tiny_data, tmp_path / "killed", config)
    train(tiny_data, tmp_path / "whole", config)
    killed, whole = (read_checkpoint(tmp_path / name / CHECKPOINT) for name in ("killed", "whole"))
    for kind in ("model", "average"):
        weights, expected = getattr(killed, kind), getattr(whole, kind)
        assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert killed.epoch == whole.epoch == 3
    assert (tmp_path / "killed" / LOG).read_text() == (tmp_path / "whole" / LOG).read_text()


def test_loss_that_is_not_a_number_stops(tiny_data: Path) -> None:
    rows = read_manifest(tiny_data)
    roles = split_roles(rows, TINY.external, TINY.test_share, TINY.validation_share)
    pictures = load_pictures(tiny_data, rows, read_preprocessing())
    chosen = [i for i, role in enumerate(roles) if role is SplitRole.TRAIN]
    sampler = make_sampler(pictures, chosen, TINY)
    state = new_state(TINY, CLASSES)
    with torch.no_grad():
        next(state.model.parameters()).fill_(math.nan)
    with pytest.raises(DivergedError, match="not a number"):
        train_epoch(state, sampler, TINY)


def test_patience_ends_a_run_that_gets_no_better(tiny_data: Path, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"epochs": 9, "samples_per_epoch": 16, "patience": 1, "learning_rate": 1e-9})
    said = Console(record=True, width=100)
    figures: list[float] = []
    train(tiny_data, tmp_path, config, console=said, on_epoch=lambda _, figure: figures.append(figure))
    best = max(range(len(figures)), key=lambda i: (figures[i], i)) + 1  # of equal ones the later
    assert len(figures) == min(9, best + 2)
    assert ("no better validation figure" in said.export_text()) == (len(figures) < 9)


def test_weighted_loss_lets_a_rare_class_count_as_much() -> None:
    labels = torch.tensor([0] * 10 + [1] * 40 + [2] * 40 + [3] * 40 + [CLASSES.any_tumour] * 3)
    weights = class_weights(labels, CLASSES)
    assert weights[0] == pytest.approx(float(weights[1]) * 4)
    assert weights[:4].mean() == pytest.approx(1)
    assert weights[CLASSES.any_tumour] == 1
    logits = torch.randn(133, 4, generator=torch.Generator().manual_seed(0))
    known = labels != CLASSES.any_tumour
    torch.testing.assert_close(
        classification_loss(logits[known], labels[known], 0.0, CLASSES, weights),
        functional.cross_entropy(logits[known], labels[known], weight=weights[:4]),
    )


def test_loss_equals_cross_entropy_and_sums_tumours() -> None:
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    torch.testing.assert_close(
        classification_loss(logits, labels, 0.1, CLASSES), functional.cross_entropy(logits, labels, label_smoothing=0.1)
    )
    unknown = torch.full((8,), CLASSES.any_tumour)
    expected = -logits.softmax(dim=1)[:, :3].sum(dim=1).log().mean()
    torch.testing.assert_close(classification_loss(logits, unknown, 0.1, CLASSES), expected)


def test_one_cycle_rises_and_falls() -> None:
    config = TrainConfig()
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(config.learning_rate)
    assert rates.index(max(rates)) == 15
    assert rates[0] == pytest.approx(config.learning_rate / 25)
    assert rates[-1] < config.learning_rate / 500


def test_weights_of_another_network_are_refused(tiny_run: Path) -> None:
    state = new_state(TINY, CLASSES)
    assert len(load_weights(state.model, tiny_run / BEST)) == 64
    other = new_state(TINY.model_copy(update={"network": "resnet18"}), CLASSES)
    with pytest.raises(StartError, match="has the shape"):
        load_weights(other.model, tiny_run / BEST)
    other = new_state(TINY.model_copy(update={"network": "densenet121"}), CLASSES)
    with pytest.raises(StartError, match=r"missing|unknown"):
        load_weights(other.model, tiny_run / BEST)


def test_a_run_learns_sequence_and_region_beside_the_class(sequences_run: Path, sequences_data: Path) -> None:
    best = read_checkpoint(sequences_run / BEST)
    layout = OutputLayout.of(best.config, len(CLASSES))
    rows = read_manifest(sequences_data)
    pictures = load_pictures(sequences_data, rows, read_preprocessing())
    with torch.no_grad():
        outputs = best.classifier()(pictures.pixels.float() / 255)
    _, sequences, regions = layout.split(outputs.logits)
    assert (sequences.argmax(dim=1) == SEQUENCES.index("T1C")).all()
    assert (regions.argmax(dim=1) == REGIONS.index("brain")).all()
    assert outputs.maps.shape[1] == layout.size == len(CLASSES) + len(SEQUENCES) + len(REGIONS)


def test_nothing_known_of_a_picture_costs_nothing() -> None:
    logits, unknown = torch.randn(3, 5, requires_grad=True), torch.full((3,), UNLABELLED)
    assert known_loss(logits, unknown) == 0
    assert classification_loss(logits[:, :4], unknown, 0.0, CLASSES) == 0
    assert known_loss(logits, torch.tensor([UNLABELLED, 1, 1])) > 0
