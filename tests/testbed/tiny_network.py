"""A network that this program does not know, small enough to be trained and exported within a test."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn

from monai_train.networks.classifier import Layers, ServedNetwork


class TinyNet(nn.Module):
    """Six convolutions, global average pooling and one linear layer."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        channels = (1, *(factor * width for factor in (1, 2, 4, 4, 4, 8)))
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(channels):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.stages = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.answer = nn.Linear(8 * width, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits [n, classes]."""
        logits: torch.Tensor = self.answer(self.pool(self.stages(image)).flatten(1))
        return logits


class TinyNetwork(ServedNetwork):
    """All that the program must be told of it."""

    name = "tiny"
    head = "answer"
    public_names = ((r"^stages\.", "backbone."),)
    public_heads = ("answer.",)
    accepted_share = 0.9
    limit_factor = 3.0

    def definition(self, classes: int) -> dict[str, Any]:
        """The bundle's `network_def`."""
        return {"_target_": "tests.testbed.tiny_network.TinyNet", "width": 8, "classes": classes}

    def layers(self, net: Any, image: torch.Tensor) -> Layers:
        """The output of the last convolution."""
        return Layers(net.stages(image))
