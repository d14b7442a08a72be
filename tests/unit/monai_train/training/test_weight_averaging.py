"""The mean of weights is loaded with the statistics of its own norms, and refused where it is worse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monai_train.data.dataset import Pictures, load_pictures, read_preprocessing
from monai_train.data.manifest import read_manifest
from monai_train.data.patients import SplitRole, split_roles
from monai_train.training.checkpoint import BEST, read_checkpoint
from monai_train.training.train import rows_with_role
from monai_train.training.weight_averaging import average_weights
from tests.unit.monai_train.conftest import TINY
from worker.errors import StartError


@pytest.fixture(scope="module")
def parts(tiny_data: Path) -> tuple[Pictures, Pictures]:
    """The pictures of the training and of the validation part."""
    rows = read_manifest(tiny_data)
    roles = split_roles(rows, TINY.external, TINY.test_share, TINY.validation_share)
    pictures = load_pictures(tiny_data, rows, read_preprocessing())
    training, validation = (
        pictures.select(rows_with_role(roles, role)) for role in (SplitRole.TRAIN, SplitRole.VALIDATION)
    )
    return training, validation


def test_mean_is_loaded_and_its_norms_are_measured_again(tiny_run: Path, parts: tuple[Pictures, Pictures]) -> None:
    checkpoint = read_checkpoint(tiny_run / BEST)
    weights = checkpoint.average
    shift = torch.full_like(weights["net.fc.bias"], 0.5)
    apart = [{**weights, "net.fc.bias": weights["net.fc.bias"] + sign * shift} for sign in (1, -1)]
    model = checkpoint.classifier()
    momenta = [norm.momentum for norm in model.modules() if isinstance(norm, torch.nn.BatchNorm2d)]
    figures = average_weights(model, apart, *parts)
    assert len(figures) == 3
    assert figures[2] >= max(figures[:2]) - 0.01
    loaded = model.state_dict()
    torch.testing.assert_close(loaded["net.fc.bias"], weights["net.fc.bias"])
    assert loaded["net.bn1.num_batches_tracked"].dtype == torch.long
    assert not torch.equal(loaded["net.bn1.running_mean"], weights["net.bn1.running_mean"])
    assert [norm.momentum for norm in model.modules() if isinstance(norm, torch.nn.BatchNorm2d)] == momenta
    assert not model.training


def test_mean_between_runs_that_do_not_go_together_is_refused(tiny_run: Path, parts: tuple[Pictures, Pictures]) -> None:
    checkpoint = read_checkpoint(tiny_run / BEST)
    opposite = {key: -value if value.ndim > 1 else value for key, value in checkpoint.average.items()}
    with pytest.raises(StartError, match="average runs that started from the same --weights"):
        average_weights(checkpoint.classifier(), [checkpoint.average, opposite], *parts)
