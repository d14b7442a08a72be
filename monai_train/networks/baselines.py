"""Networks for comparison, which are not served: those of the earlier systems, and VGG16.

The systems' sources are not part of this project: a width or depth that a description leaves open is the plainest
reading of it (see docs/reference-systems.md). Each takes images float32 [n, 1, s, s] of any size from 32.
"""

from __future__ import annotations

import torch
from torch import nn


class Pooled(nn.Module):
    """Ends in global average pooling and one linear layer `head`, so that its activation maps are exact."""

    head: nn.Linear

    def spatial(self, image: torch.Tensor) -> torch.Tensor:
        """The last feature map [n, F, h, w]."""
        raise NotImplementedError


class Flat(nn.Module):
    """Reads every position with weights of its own: `body` gives [n, F], `head` the logits; no activation maps."""

    def __init__(self, body: nn.Sequential, features: int, classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(features, classes)


def _stage(inputs: int, outputs: int, kernel: int = 3, norm: bool = False) -> list[nn.Module]:
    """Convolution, ReLU, maximum over 2 x 2."""
    norms = [nn.BatchNorm2d(outputs)] if norm else []
    return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), *norms, nn.ReLU(), nn.MaxPool2d(2)]


def _dense(features: int, hidden: int, dropout: float) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout)]


def sequential_cnn(classes: int) -> Flat:
    """System A, sequential: three stages, then a dense layer."""
    layers = [*_stage(1, 32), *_stage(32, 64), *_stage(64, 128), nn.AdaptiveAvgPool2d(14)]
    return Flat(nn.Sequential(*layers, *_dense(128 * 14 * 14, 128, 0.5)), 128, classes)


class FunctionalCNN(Pooled):
    """System A, functional: two branches with kernels of 3 and 5, concatenated."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fine = nn.Sequential(*_stage(1, 16, 3), *_stage(16, 32, 3))
        self.coarse = nn.Sequential(*_stage(1, 16, 5), *_stage(16, 32, 5))
        self.joined = nn.Sequential(*_stage(64, 128), nn.Conv2d(128, 128, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(128, classes)

    def spatial(self, image: torch.Tensor) -> torch.Tensor:
        joined: torch.Tensor = self.joined(torch.cat([self.fine(image), self.coarse(image)], dim=1))
        return joined


def wide_kernel_cnn(classes: int) -> Flat:
    """System B: 32 kernels of 7 x 7, batch norm, two maxima over 4 x 4, a linear layer over all positions."""
    convolution = [nn.Conv2d(1, 32, 7, padding=2), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(4), nn.MaxPool2d(4)]
    return Flat(nn.Sequential(*convolution, nn.AdaptiveAvgPool2d(14), nn.Flatten()), 32 * 14 * 14, classes)


def linear_model(classes: int) -> Flat:
    """System C: a linear layer on 64 x 64 pixels."""
    return Flat(nn.Sequential(nn.AdaptiveAvgPool2d(64), nn.Flatten()), 64 * 64, classes)


def double_cnn(classes: int) -> Flat:
    """System C, CNN: three stages of two convolutions, then two dense layers."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), *_stage(outputs, outputs)]
    layers += [nn.AdaptiveAvgPool2d(4), *_dense(128 * 16, 512, 0.0), nn.Linear(512, 256), nn.ReLU()]
    return Flat(nn.Sequential(*layers), 256, classes)


def plain_cnn(classes: int) -> Flat:
    """System E, CNN: four stages, then a dense layer."""
    layers = [*_stage(1, 32), *_stage(32, 64), *_stage(64, 128), *_stage(128, 128), nn.AdaptiveAvgPool2d(8)]
    return Flat(nn.Sequential(*layers, *_dense(128 * 64, 256, 0.5)), 256, classes)


def deeper_cnn(classes: int) -> Flat:
    """System E, deeper CNN: five stages with batch norm, then two dense layers with dropout."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 64), (64, 128), (128, 256), (256, 256)):
        layers += _stage(inputs, outputs, norm=True)
    layers += [nn.AdaptiveAvgPool2d(4), *_dense(256 * 16, 512, 0.5), nn.Linear(512, 128), nn.ReLU(), nn.Dropout(0.5)]
    return Flat(nn.Sequential(*layers), 128, classes)


class VGG16(Pooled):
    """VGG16's convolutions (Simonyan & Zisserman 2014; `features` numbered as torchvision does), pooled."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for width, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(convolutions):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        for layer in layers:
            if isinstance(
                layer, nn.Conv2d
            ):  # the default initialisation lets the signal vanish in thirteen layers without norm
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(512, classes)

    def spatial(self, image: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.features(image)
        return features
