"""The interface of a network, and the classifier built on it: logits, features and exact activation maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import nn

Scale = tuple[tuple[float, float, float], tuple[float, float, float]]
IMAGENET: Scale = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's, of intensities in [0, 1]


class NetworkOutputs(NamedTuple):
    """logits [n, classes] before temperature; features [n, F]; maps [n, classes, h, w], 0 x 0 if it has none."""

    logits: torch.Tensor
    features: torch.Tensor
    maps: torch.Tensor


class Layers(NamedTuple):
    """The input of a network's last layer.

    `spatial` [n, C, h, w]: the feature map whose mean the last layer reads; None if it reads `features` instead.
    `features` [n, F]: for detecting pictures that are out of distribution; None if that is the mean of `spatial`.
    """

    spatial: torch.Tensor | None
    features: torch.Tensor | None = None


class Network(ABC):
    """Everything this program knows about a network; a new network is a subclass or an instance in the registry.

    A subclass of this class can be trained and compared; a `ServedNetwork` can be exported, too.
    """

    name: str
    head: ClassVar[str]  # path of the last linear layer, which starts at zero for other classes than the file's
    has_maps: ClassVar[bool] = True

    # Public weights: patterns from our names to theirs, prefixes of their last layers, mean and deviation of the input.
    public_names: ClassVar[tuple[tuple[str, str], ...]] = ()
    public_heads: ClassVar[tuple[str, ...]] = ()
    public_scale: ClassVar[Scale] = IMAGENET

    @abstractmethod
    def build(self, classes: int) -> nn.Module:
        """The network with fresh weights, for one grey channel of any size from 32."""

    @abstractmethod
    def layers(self, net: Any, image: torch.Tensor) -> Layers:
        """The layers of `net` (made by `build`) for images float32 [n, 1, s, s]."""


class ServedNetwork(Network):
    """A network that a bundle can hold: it ends in global average pooling and one linear layer (docs/bundle.md).

    Its target must be in the allow-list of `worker.inference.bundle`.
    """

    # At export, out-of-distribution limits are set so that this share of the validation slices is accepted, then
    # widened by this factor.
    accepted_share: ClassVar[float] = 0.95
    limit_factor: ClassVar[float] = 1.0

    @abstractmethod
    def definition(self, classes: int) -> dict[str, Any]:
        """The bundle's `network_def`: `_target_`, the class by its import path, and its arguments."""

    def build(self, classes: int) -> nn.Module:
        """The network that `definition` describes, with fresh weights."""
        definition = self.definition(classes)
        module, _, kind = definition.pop("_target_").rpartition(".")
        net: nn.Module = getattr(import_module(module), kind)(**definition)
        return net


class Classifier(nn.Module):
    """A network with its features and activation maps; `net` holds the weights that a bundle keeps."""

    def __init__(self, network: Network, classes: int) -> None:
        super().__init__()
        self.network = network
        self.net = network.build(classes)

    @property
    def head(self) -> nn.Linear:
        """The last layer: features or pooled feature map → logits."""
        return cast(nn.Linear, self.net.get_submodule(self.network.head))

    def forward(self, image: torch.Tensor) -> NetworkOutputs:
        """image float32 [n, 1, size, size] in the scale that preprocessing gives."""
        spatial, features = self.network.layers(self.net, image)
        if spatial is None:
            if features is None:
                raise ValueError(f"{self.network.name} gives neither a feature map nor features")
            logits = self.head(features)
            return NetworkOutputs(logits, features, logits.new_empty((*logits.shape, 0, 0)))
        pooled = spatial.mean(dim=(2, 3))
        # The last layer applied at every position gives the exact class activation map, since pooling is a mean.
        maps = nn.functional.conv2d(spatial, self.head.weight[:, :, None, None], self.head.bias)
        return NetworkOutputs(self.head(pooled), pooled if features is None else features, maps)
