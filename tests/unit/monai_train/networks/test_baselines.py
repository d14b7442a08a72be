"""Networks that are compared but not served: any size, exact maps where they are pooled, none where they are flat."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monai_train.config import TrainConfig
from monai_train.export.export import export
from monai_train.networks.baselines import Flat, Pooled
from monai_train.networks.classifier import ServedNetwork
from monai_train.networks.registry import NETWORKS, find_network, find_served, make_classifier
from monai_train.training.checkpoint import BEST, save
from monai_train.training.train import new_state
from tests.testbed.converted import CLASSES
from worker.errors import StartError

NAMES = [name for name, network in NETWORKS.items() if not isinstance(network, ServedNetwork)]


@pytest.mark.parametrize("name", NAMES)
def test_every_baseline_answers_at_two_sizes_and_learns(name: str) -> None:
    torch.manual_seed(0)
    model = make_classifier(name, 3)
    for size in (64, 96):
        outputs = model(torch.rand(2, 1, size, size))
        assert outputs.logits.shape == (2, 3)
        assert outputs.features.shape == (2, model.net.head.in_features)
        if isinstance(model.net, Pooled):
            torch.testing.assert_close(outputs.maps.mean(dim=(2, 3)), outputs.logits, rtol=1e-3, atol=1e-4)
        else:
            assert outputs.maps.shape == (2, 3, 0, 0)
    outputs.logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(StartError, match=f"{name} is for comparison only"):
        find_served(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_second_one_takes_the_same_weights(name: str) -> None:
    source = make_classifier(name, 2)
    assert isinstance(source.net, Pooled | Flat)
    make_classifier(name, 2).load_state_dict(source.state_dict())


def test_baseline_is_not_exported(tmp_path: Path) -> None:
    config = TrainConfig(network="c-linear")
    save(tmp_path / BEST, new_state(config, CLASSES), config, {})
    with pytest.raises(StartError, match="c-linear is for comparison only"):
        export(tmp_path, tmp_path, tmp_path / "bundle", "name", "0.1.0")


def test_nearest_name_is_offered_for_a_baseline_too() -> None:
    with pytest.raises(StartError, match="did you mean vgg16"):
        find_network("vgg-16")
