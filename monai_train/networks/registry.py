"""Networks by name, each a MONAI definition that the bundle keeps, seen through one interface: logits, features, maps.

Every network that a bundle can hold (DEFINITIONS) ends in global average pooling and one linear layer, so that the
linear layer applied at every position is an exact class activation map (docs/bundle.md). `baselines` has the others.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from monai.networks import nets
from torch import nn

from monai_train.networks.baselines import NAMES, PREFIX, Flat, Pooled, baseline_definition, make_baseline
from monai_train.networks.depthwise import use_fast_depthwise
from worker.errors import StartError
from worker.inference.efficientnet_lite import BLOCKS, FEATURE_STAGES, EfficientNetLite0, channel_statistics

Definition = Mapping[str, Any]


class NetworkOutputs(NamedTuple):
    """logits [n, classes] before temperature; features [n, F]; maps [n, classes, h, w], 0 x 0 where it has none."""

    logits: torch.Tensor
    features: torch.Tensor
    maps: torch.Tensor


def _resnet(block: str, layers: list[int], width: int, pooled_stem: bool = True) -> dict[str, Any]:
    definition: dict[str, Any] = {
        "_target_": "monai.networks.nets.ResNet",
        "block": block,
        "layers": layers,
        "block_inplanes": [width, 2 * width, 4 * width, 8 * width],
        "spatial_dims": 2,
        "n_input_channels": 1,
        "conv1_t_stride": 2,
        "bias_downsample": False,
    }
    return definition if pooled_stem else {**definition, "no_max_pool": True}


def _densenet(blocks: list[int]) -> dict[str, Any]:
    return {
        "_target_": "monai.networks.nets.DenseNet",
        "block_config": blocks,
        "spatial_dims": 2,
        "in_channels": 1,
    }


DEFINITIONS: dict[str, dict[str, Any]] = {
    "resnet18": _resnet("basic", [2, 2, 2, 2], 64),
    "resnet18-slim": _resnet("basic", [2, 2, 2, 2], 32),  # 2.8 million weights: a quarter of the time and size
    "resnet18-fine": _resnet("basic", [2, 2, 2, 2], 32, pooled_stem=False),  # slim, its maps twice as fine
    "resnet34": _resnet("basic", [3, 4, 6, 3], 64),
    "resnet50": _resnet("bottleneck", [3, 4, 6, 3], 64),
    "densenet121": _densenet([6, 12, 24, 16]),
    "densenet169": _densenet([6, 12, 32, 32]),
    "se-resnet50": {"_target_": "monai.networks.nets.SEResNet50", "spatial_dims": 2, "in_channels": 1},
    "efficientnet-b0": {
        "_target_": "monai.networks.nets.EfficientNet",
        "blocks_args_str": [f"{block}_se0.25" for block in BLOCKS],
        "spatial_dims": 2,
        "in_channels": 1,
    },
    "efficientnet-lite0": {
        "_target_": "worker.inference.efficientnet_lite.EfficientNetLite0",
        "spatial_dims": 2,
        "in_channels": 1,
    },
}
_CLASSES_ARGUMENT = {
    "ResNet": "num_classes",
    "DenseNet": "out_channels",
    "SEResNet50": "num_classes",
    "EfficientNet": "num_classes",
    "EfficientNetLite0": "num_classes",
}


def network_definition(name: str, classes: int) -> dict[str, Any]:
    """The MONAI `network_def` of a named network. StartError, with the nearest name, for one that is not known."""
    if name in NAMES:
        return baseline_definition(name, classes)
    if name not in DEFINITIONS:
        near = difflib.get_close_matches(name, (*DEFINITIONS, *NAMES), 1)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join((*DEFINITIONS, *NAMES))}"
        raise StartError("unknown-network", f"no network is called {name!r}{hint}")
    definition = DEFINITIONS[name]
    return {**definition, _CLASSES_ARGUMENT[definition["_target_"].rsplit(".", 1)[1]]: classes}


class Classifier(nn.Module):
    """A MONAI network with its features and activation maps; `net` holds the weights the bundle keeps."""

    def __init__(self, definition: Definition) -> None:
        super().__init__()
        if str(definition["_target_"]).startswith(PREFIX):
            self.net: nn.Module = make_baseline(str(definition["_target_"]), definition["classes"])
            return
        target = str(definition["_target_"]).rsplit(".", 1)[1]
        if target not in _CLASSES_ARGUMENT:
            raise StartError("unknown-network", f"the definition's target {target!r} is not supported")
        arguments = {key: value for key, value in definition.items() if key != "_target_"}
        kind = EfficientNetLite0 if target == "EfficientNetLite0" else getattr(nets, target)
        self.net = kind(**arguments)
        self._target = target
        if target.startswith("EfficientNet"):
            self.net.set_swish(memory_efficient=False)  # the other cannot be traced for OpenVINO
            use_fast_depthwise(self.net)

    def _spatial(self, image: torch.Tensor) -> tuple[torch.Tensor, nn.Linear, torch.Tensor | None]:
        """The last feature map [n, C, h, w], the linear layer that reads its mean, the features where not that mean."""
        net: Any = self.net
        if isinstance(net, Pooled):
            return net.spatial(image), net.head, None
        if self._target == "ResNet":
            stem = net.act(net.bn1(net.conv1(image)))
            stem = stem if net.no_max_pool else net.maxpool(stem)
            return net.layer4(net.layer3(net.layer2(net.layer1(stem)))), net.fc, None
        if self._target == "DenseNet":
            return net.class_layers.relu(net.features(image)), net.class_layers.out, None
        if self._target.startswith("EfficientNet"):
            stem = net._swish(net._bn0(net._conv_stem(net._conv_stem_padding(image))))
            stages = net._blocks[:FEATURE_STAGES](stem)
            last = net._blocks[FEATURE_STAGES:](stages)
            spatial = net._swish(net._bn1(net._conv_head(net._conv_head_padding(last))))
            return spatial, net._fc, channel_statistics(stages) if isinstance(net, EfficientNetLite0) else None
        spatial = net.layer4(net.layer3(net.layer2(net.layer1(net.layer0(image)))))
        return spatial, net.last_linear, None

    def forward(self, image: torch.Tensor) -> NetworkOutputs:
        """image float32 [n, 1, size, size] in the scale that preprocessing gives."""
        if isinstance(self.net, Flat):
            found = self.net.body(image)
            logits = self.net.head(found)
            return NetworkOutputs(logits, found, logits.new_empty((*logits.shape, 0, 0)))
        spatial, linear, features = self._spatial(image)
        pooled = spatial.mean(dim=(2, 3))
        weight = linear.weight[:, :, None, None]
        maps = nn.functional.conv2d(spatial, weight, linear.bias)
        return NetworkOutputs(linear(pooled), pooled if features is None else features, maps)
