"""Two processes under torchrun train one model: equal weights, the mean of both gradients, one set of files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from monai_train.cli import app as cli
from monai_train.config import TrainConfig
from monai_train.data.dataset import load_pictures, read_preprocessing
from monai_train.data.manifest import read_manifest
from monai_train.data.patients import SplitRole, split_roles
from monai_train.training.checkpoint import CHECKPOINT, read_checkpoint
from monai_train.training.distributed import require_device
from monai_train.training.sampling import make_sampler
from monai_train.training.train import classification_loss, learning_rate, new_state
from tests.testbed.converted import CLASSES
from tests.testbed.waiting import patience
from tests.unit.monai_train.conftest import TINY
from worker.errors import StartError

ROOT = Path(__file__).parents[4]


def expected_weights(data: Path, config: TrainConfig) -> dict[str, torch.Tensor]:
    """One step by hand: each rank's gradients from its own batch, their mean, clipped once."""
    torch.set_num_threads(config.threads)
    rows = read_manifest(data)
    roles = split_roles(rows, config.external, config.test_share, config.validation_share)
    training = [i for i, role in enumerate(roles) if role is SplitRole.TRAIN]
    sampler = make_sampler(load_pictures(data, rows, read_preprocessing()), training, config)
    states = [new_state(config, CLASSES) for _ in range(2)]
    for rank, state in enumerate(states):
        batch = sampler.batch(config.batch, torch.Generator().manual_seed(config.seed * 100_003 + 50_021 * rank))
        state.model.train()
        images = batch.images.to(memory_format=torch.channels_last)
        classification_loss(state.model(images).logits, batch.labels, config.label_smoothing, CLASSES).backward()
    first = states[0]
    for mine, other in zip(first.model.parameters(), states[1].model.parameters(), strict=True):
        mine.grad = (mine.grad + other.grad) / 2
    nn.utils.clip_grad_norm_(first.model.parameters(), config.clip_norm)
    for group in first.optimizer.param_groups:
        group["lr"] = learning_rate(config, 0, 1)
    first.optimizer.step()
    return dict(first.model.named_parameters())


def test_two_ranks_train_one_model(tiny_data: Path, tmp_path: Path) -> None:
    changes = {"epochs": 1, "batch": 8, "samples_per_epoch": 16, "mixed_precision": False}
    config = TINY.model_copy(update=changes)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(ROOT / "tests/testbed/two_ranks.py"), str(tiny_data), str(run), str(tmp_path / "config.json")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=patience(280))
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(run / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
    names = list(expected := expected_weights(tiny_data, config))
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in names)
    for name in names:
        torch.testing.assert_close(ranks[0][name], expected[name], rtol=1e-4, atol=1e-5)
    checkpoint = read_checkpoint(run / CHECKPOINT)
    assert all(torch.equal(checkpoint.model[name], ranks[0][name]) for name in names)
    assert len((run / "log.csv").read_text().splitlines()) == 2


def test_other_commands_do_not_run_on_several_ranks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["monai-train", "crossval", "--data", "x"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "torchrun supports `train` only" in capsys.readouterr().err


def test_a_device_that_is_not_here_is_told_before_anything_is_read() -> None:
    require_device("cpu")
    with pytest.raises(StartError, match=r"there is no device 'cdua' here: use one of cpu"):
        require_device("cdua")
    if torch.cuda.is_available():
        require_device("cuda")
        return
    with pytest.raises(StartError, match=r"CUDA was asked for, but PyTorch .* or use --device cpu"):
        require_device("cuda")
