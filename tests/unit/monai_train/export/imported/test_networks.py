"""A state_dict tells its network; where it fits none, the first differences are named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks import nets

from monai_train.export.imported import graph
from monai_train.export.imported.networks import match_network
from worker.errors import StartError


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("densenet121", lambda: nets.DenseNet121(spatial_dims=2, in_channels=1, out_channels=6)),
        ("resnet10", lambda: nets.resnet10(spatial_dims=3, n_input_channels=1, num_classes=2)),
        ("resnet18", lambda: nets.resnet18(spatial_dims=2, n_input_channels=3, num_classes=4, shortcut_type="A")),
        ("efficientnet-b0", lambda: nets.EfficientNetBN("efficientnet-b0", False, in_channels=1, num_classes=3)),
    ],
)  # fmt: skip
def test_the_network_is_found_by_its_tensors_and_computes_the_same(name: str, make: Any) -> None:
    torch.manual_seed(1)
    net = make().eval()
    matched = match_network(net.state_dict())
    assert matched.name == name
    image = torch.rand(2, matched.channels, *[32] * matched.dimensions)
    with torch.inference_mode():
        expected = net(image)
        logits, features, *maps = graph._WithFeatures(matched)(image)
    assert torch.allclose(logits, expected, atol=1e-4)
    assert len(maps) == (1 if matched.dimensions == 2 else 0)
    assert (len(features), logits.shape[1]) == (2, matched.outputs)


def test_keys_that_do_not_fit_are_named() -> None:
    state = nets.DenseNet121(spatial_dims=2, in_channels=1, out_channels=6).state_dict()
    del state["features.conv0.weight"]
    with pytest.raises(StartError, match=r"fit densenet121 \(1 differences\): features.conv0.weight is missing"):
        match_network(state)
    with pytest.raises(StartError, match="its keys are a, b"):
        match_network({"a": torch.zeros(1), "b": torch.zeros(1)})
    with pytest.raises(StartError, match="no network is called 'alexnet'; known: densenet121"):
        match_network(state, "alexnet")
    with pytest.raises(StartError, match="has no argument 'act'"):
        match_network(state, "densenet121", {"act": "os.system"})
    with pytest.raises(StartError, match="is of DenseNet, not of resnet18"):
        match_network(state, "resnet18")
