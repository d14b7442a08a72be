"""Which network of MONAI a state_dict belongs to: its class and arguments, by the names and shapes of its tensors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from monai.networks.nets.efficientnet import efficientnet_params
from torch import nn

from monai_train.networks import registry
from monai_train.networks.classifier import ServedNetwork
from worker.errors import StartError
from worker.inference.efficientnet_lite import BLOCKS

_NAMED = 4  # keys in a message
_NETS = "monai.networks.nets"
_DENSE = {
    "densenet121": [6, 12, 24, 16],
    "densenet169": [6, 12, 32, 32],
    "densenet201": [6, 12, 48, 32],
    "densenet264": [6, 12, 64, 48],
}
_RESIDUAL = {
    "resnet10": ("basic", [1, 1, 1, 1]),
    "resnet18": ("basic", [2, 2, 2, 2]),
    "resnet34": ("basic", [3, 4, 6, 3]),
    "resnet50": ("bottleneck", [3, 4, 6, 3]),
    "resnet101": ("bottleneck", [3, 4, 23, 3]),
    "resnet152": ("bottleneck", [3, 8, 36, 3]),
}
_EFFICIENT = [f"efficientnet-b{number}" for number in range(8)]


@dataclass(frozen=True)
class Family:
    """Networks of a class. `head`: the name of the last layer. `channels` and `classes`: names of arguments.

    `supported`: the arguments that a user may give, which a state_dict does not tell, or not always.
    """

    target: str
    head: str
    channels: str
    classes: str
    supported: frozenset[str]
    variants: Mapping[str, list[dict[str, Any]]]
    layers: Callable[[Mapping[str, Any]], ServedNetwork]


def _of_resnet(arguments: Mapping[str, Any]) -> ServedNetwork:
    pooled = not arguments.get("no_max_pool", False)
    return registry.ResNet("imported", arguments["block"], (0, 0, 0, 0), pooled_stem=pooled)


FAMILIES = (
    Family(
        f"{_NETS}.DenseNet",
        "class_layers.out",
        "in_channels",
        "out_channels",
        frozenset({"init_features", "growth_rate", "block_config", "bn_size"}),
        {name: [{"block_config": blocks}] for name, blocks in _DENSE.items()},
        lambda arguments: registry.DenseNet("imported", (0, 0, 0, 0)),
    ),
    Family(
        f"{_NETS}.ResNet",
        "fc",
        "n_input_channels",
        "num_classes",
        frozenset(
            {"block", "layers", "block_inplanes", "conv1_t_size", "conv1_t_stride", "no_max_pool", "shortcut_type"}
            | {"widen_factor", "bias_downsample"}
        ),
        {
            name: [
                {
                    "block": block,
                    "layers": layers,
                    "block_inplanes": [64, 128, 256, 512],
                    "shortcut_type": shortcut,
                    "bias_downsample": bias,
                }
                for shortcut, bias in (("B", True), ("B", False), ("A", True))
            ]
            for name, (block, layers) in _RESIDUAL.items()
        },
        _of_resnet,
    ),
    Family(
        f"{_NETS}.SEResNet50",
        "last_linear",
        "in_channels",
        "num_classes",
        frozenset(),
        {"se-resnet50": [{}]},
        lambda arguments: registry.SEResNet50(),
    ),
    Family(
        f"{_NETS}.EfficientNet",
        "_fc",
        "in_channels",
        "num_classes",
        frozenset({"image_size"}),
        {
            name: [
                {
                    "blocks_args_str": [f"{block}_se0.25" for block in BLOCKS],
                    "width_coefficient": efficientnet_params[name][0],
                    "depth_coefficient": efficientnet_params[name][1],
                    "image_size": efficientnet_params[name][2],
                }
            ]
            for name in _EFFICIENT
        },
        lambda arguments: registry.EfficientNetB0(),
    ),
)


@dataclass(frozen=True)
class MatchedNetwork:
    """A network with the weights of a checkpoint. `definition`: the bundle's network_def. `head`: its last layer."""

    name: str
    definition: Mapping[str, Any]
    net: nn.Module
    layers: ServedNetwork
    head: nn.Linear
    dimensions: int
    channels: int
    outputs: int


def match_network(
    state: Mapping[str, torch.Tensor], name: str | None = None, arguments: Mapping[str, Any] | None = None
) -> MatchedNetwork:
    """The network of MONAI whose tensors have these names and shapes, with the weights in it.

    `name` restricts the search to a network, `arguments` are added to those of its class. Raises StartError: an unknown
    name or argument; keys or shapes that fit no network, with the first of them.
    """
    family = _family(state, name)
    given = dict(arguments or {})
    if unknown := sorted(given.keys() - family.supported):
        known = ", ".join(sorted(family.supported)) or "none"
        raise StartError(
            "network-argument", f"{_class(family)} has no argument {unknown[0]!r} that is supported: {known}"
        )
    kernel = next(value for value in state.values() if value.ndim >= 4)
    dimensions, channels = kernel.ndim - 2, int(kernel.shape[1])
    outputs = int(state[f"{family.head}.weight"].shape[0])
    common = {"spatial_dims": dimensions, family.channels: channels, family.classes: outputs}
    best: tuple[int, str, str] | None = None
    for variant, own in _variants(family, name):
        definition = {"_target_": family.target, **own, **given, **common}
        faults = _differences(_built(definition, "meta"), state)
        if not faults:
            title = _class(family) if given.keys() & own.keys() else variant
            return _loaded(title, definition, state, family, dimensions, channels, outputs)
        if best is None or len(faults) < best[0]:
            best = len(faults), variant, ", ".join(faults[:_NAMED]) + (" …" if len(faults) > _NAMED else "")
    if best is None:
        raise StartError("unknown-network", f"the checkpoint is of {_class(family)}, not of {name}")
    raise StartError("weights-do-not-fit", f"the checkpoint does not fit {best[1]} ({best[0]} differences): {best[2]}")


def names() -> list[str]:
    """The names of all networks that a checkpoint may be of."""
    return [name for family in FAMILIES for name in family.variants]


def _family(state: Mapping[str, torch.Tensor], name: str | None) -> Family:
    if name is not None and name not in names():
        raise StartError("unknown-network", f"no network is called {name!r}; known: {', '.join(names())}")
    for family in FAMILIES:
        weight = state.get(f"{family.head}.weight")
        if weight is not None and weight.ndim == 2 and any(value.ndim in (4, 5) for value in state.values()):
            return family
    keys = list(state)
    shown = ", ".join(keys[:_NAMED]) + (" …" if len(keys) > _NAMED else "")
    known = ", ".join(_class(family) for family in FAMILIES)
    raise StartError("unknown-network", f"the checkpoint is of none of MONAI's {known}: its keys are {shown}")


def _class(family: Family) -> str:
    return family.target.rpartition(".")[2]


def _variants(family: Family, name: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    chosen = family.variants if name is None else {key: family.variants[key] for key in family.variants if key == name}
    return itertools.chain.from_iterable(((key, own) for own in variants) for key, variants in chosen.items())


def _built(definition: Mapping[str, Any], device: str) -> nn.Module:
    """The network on a device; "meta" has shapes alone. Raises StartError for arguments that MONAI refuses."""
    module, _, kind = definition["_target_"].rpartition(".")  # one of FAMILIES
    arguments = {key: value for key, value in definition.items() if key != "_target_"}
    try:
        with torch.device(device):
            net: nn.Module = getattr(import_module(module), kind)(**arguments)
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise StartError("network-argument", f"MONAI's {kind} refuses its arguments: {error}") from None
    return net


def _differences(net: nn.Module, state: Mapping[str, torch.Tensor]) -> list[str]:
    """How the tensors of a checkpoint differ from those of a network; counters of batches are optional."""
    expected = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    faults = [f"{key} is missing" for key in expected if key not in given and not key.endswith("num_batches_tracked")]
    faults += [f"{key} is unknown" for key in given if key not in expected]
    shared = [key for key in expected if key in given and expected[key] != given[key]]
    return faults + [f"{key} is {list(given[key])} instead of {list(expected[key])}" for key in shared]


def _loaded(
    name: str,
    definition: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    family: Family,
    dimensions: int,
    channels: int,
    outputs: int,
) -> MatchedNetwork:
    net: Any = _built(definition, "cpu")
    net.load_state_dict(state, strict=False)  # `_differences` found none
    if hasattr(net, "set_swish"):
        net.set_swish(memory_efficient=False)  # the memory-efficient variant cannot be traced for OpenVINO
    layers = family.layers(definition)
    head = net.get_submodule(family.head)
    return MatchedNetwork(name, definition, net.eval(), layers, head, dimensions, channels, outputs)
