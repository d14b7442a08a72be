"""A classifier gives logits, features and maps, whichever layers its network names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from monai_train.networks.classifier import Classifier, Layers, Network


class Given(Network):
    """A network whose layers are those that it is given."""

    name = "given"
    head = "last"

    def __init__(self, layers: Layers) -> None:
        self.given = layers

    def build(self, classes: int) -> nn.Module:
        return nn.ModuleDict({"last": nn.Linear(3, classes)})

    def layers(self, net: Any, image: torch.Tensor) -> Layers:
        return self.given


IMAGE = torch.zeros(2, 1, 32, 32)
SPATIAL = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
FEATURES = torch.rand(2, 7, generator=torch.Generator().manual_seed(1))


def test_feature_map_gives_exact_maps_and_its_mean_as_features() -> None:
    model = Classifier(Given(Layers(SPATIAL)), 4)
    logits, features, maps = model(IMAGE)
    assert maps.shape == (2, 4, 4, 5)
    torch.testing.assert_close(features, SPATIAL.mean(dim=(2, 3)))
    torch.testing.assert_close(logits, model.head(features))
    torch.testing.assert_close(maps.mean(dim=(2, 3)), logits)


def test_features_of_another_layer_replace_the_mean() -> None:
    logits, features, maps = Classifier(Given(Layers(SPATIAL, FEATURES)), 4)(IMAGE)
    assert features is FEATURES
    torch.testing.assert_close(maps.mean(dim=(2, 3)), logits)


def test_features_alone_give_no_maps() -> None:
    model = Classifier(Given(Layers(None, FEATURES[:, :3])), 4)
    logits, features, maps = model(IMAGE)
    torch.testing.assert_close(logits, model.net["last"](features))
    assert maps.shape == (2, 4, 0, 0)


def test_network_without_layers_is_a_fault_of_the_program() -> None:
    with pytest.raises(ValueError, match="given gives neither a feature map nor features"):
        Classifier(Given(Layers(None)), 4)(IMAGE)
