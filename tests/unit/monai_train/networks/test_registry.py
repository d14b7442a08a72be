"""Every named network gives logits, features and exact activation maps."""

from __future__ import annotations

import pytest
import torch

from monai_train.networks.registry import DEFINITIONS, Classifier, network_definition
from worker.errors import StartError
from worker.inference.bundle import NETWORK_TARGETS


@pytest.mark.parametrize("name", sorted(DEFINITIONS))
def test_maps_average_to_the_logits(name: str) -> None:
    torch.manual_seed(0)
    definition = network_definition(name, 4)
    model = Classifier(definition).eval()
    image = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        outputs = model(image)
        plain = model.net(image)
    torch.testing.assert_close(outputs.logits, plain, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(outputs.maps.mean(dim=(2, 3)), outputs.logits, rtol=1e-3, atol=1e-3)
    assert outputs.features.shape[0] == 2
    assert definition["_target_"] in NETWORK_TARGETS


def test_unknown_network_names_the_nearest() -> None:
    with pytest.raises(StartError, match="resnet18"):
        network_definition("resnet-18", 4)
