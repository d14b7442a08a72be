"""A checkpoint → the OpenVINO network of a bundle: `image` → `logits`, `features`, and `maps` where it has them.

Of a network of MONAI the features are those under its last layer, and a network of slices has maps. Of a graph whose
layers are not known, the features are the means of the image over a coarse grid: they tell another kind of picture, no
more.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from openvino import opset13
from torch import nn

from monai_train.export.engine_networks import traced_network
from monai_train.export.imported.checkpoint import Checkpoint
from monai_train.export.imported.networks import MatchedNetwork
from worker.errors import StartError
from worker.pixels.arrays import FloatArray

_GRID = {2: 8, 3: 4}  # cells along an axis
_LEAST = 1e-7  # of a probability, for its logarithm
_SUM_TOLERANCE = 1e-3
_REPEATED = 3  # rows of the batch that must give what a single row gives


class _WithFeatures(nn.Module):
    """A network of MONAI with its features, and its maps where it reads slices."""

    def __init__(self, matched: MatchedNetwork) -> None:
        super().__init__()
        self.matched = matched
        self.net, self.head = matched.net, matched.head

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """image float32 [n, channels, x, y(, z)] → logits, features and, of slices, maps."""
        spatial = self.matched.layers.layers(self.net, image).spatial
        if spatial is None:
            raise ValueError(f"{self.matched.name} has no feature map")
        features = spatial.flatten(2).mean(dim=2)
        if self.matched.dimensions != 2:
            return self.head(features), features
        maps = nn.functional.conv2d(spatial, self.head.weight[:, :, None, None], self.head.bias)
        return self.head(features), features, maps


def of_network(matched: MatchedNetwork, shape: Sequence[int]) -> Any:
    """Convert a network of MONAI. Raises StartError where it gives other logits with its features than by itself."""
    wrapped = _WithFeatures(matched).eval()
    image = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            own, apart = matched.net(image), wrapped(image)[0]
    except RuntimeError as error:
        size = " x ".join(map(str, shape))
        first = str(error).splitlines()[0]
        raise StartError("network-size", f"{matched.name} cannot read a tensor of {size}: {first}") from None
    if not torch.allclose(own, apart, atol=1e-4, rtol=1e-3):
        raise StartError("network-differs", f"{matched.name} of this MONAI computes otherwise than is known here")
    return traced_network(wrapped, shape, ("logits", "features", "maps")[: 3 if matched.dimensions == 2 else 2])


def dimensions_of(checkpoint: Checkpoint) -> int:
    """Whether a graph reads slices (2) or volumes (3). Raises StartError where it does not tell."""
    if checkpoint.kind == "onnx":
        rank = _onnx_input(_read_onnx(checkpoint.path), checkpoint.path).partial_shape.rank
        axes = rank.get_length() if rank.is_static else 0
    else:
        axes = max((value.ndim for value in checkpoint.script.parameters()), default=0)
    if axes not in (4, 5):
        fault = f"reads a tensor of {axes} axes" if axes else "does not tell how many axes it reads"
        raise StartError("graph-input", f"{checkpoint.path} {fault}; expected is [n, channels, x, y] or with z")
    return int(axes) - 2


def of_graph(checkpoint: Checkpoint, shape: Sequence[int]) -> Any:
    """Convert ONNX or TorchScript. Raises StartError: inputs, outputs or sizes that are not those of a classifier."""
    if checkpoint.kind == "onnx":
        model = _read_onnx(checkpoint.path)
        _fit_input(model, shape, checkpoint.path)
    else:
        model = _converted_script(checkpoint, shape)
    return _with_features(model, shape, checkpoint.path)


def _read_onnx(path: Path) -> Any:
    try:
        return openvino.Core().read_model(path)
    except RuntimeError as error:
        raise StartError("graph-unreadable", f"{path} is no ONNX that OpenVINO reads: {_reason(error)}") from None


def _onnx_input(model: Any, path: Path) -> Any:
    if len(model.inputs) != 1:
        names = ", ".join(port.any_name for port in model.inputs)
        raise StartError("graph-input", f"{path} has {len(model.inputs)} inputs ({names}); expected is a single image")
    return model.inputs[0]


def _fit_input(model: Any, shape: Sequence[int], path: Path) -> None:
    """Give the graph our sizes, and any number of images at a time where it takes them."""
    declared = _onnx_input(model, path).partial_shape
    rest = list(declared)[1:]
    if len(rest) != len(shape) or any(
        side.is_static and side.get_length() != own for side, own in zip(rest, shape, strict=True)
    ):
        size = " x ".join(map(str, shape))
        raise StartError("graph-input", f"{path} reads {declared}; the preprocessing gives {size} for each image")
    batch = declared[0]
    for count in (-1, 1):
        try:
            model.reshape([count, *shape])
            if count == 1 or _takes_batches(model, shape):
                return
        except RuntimeError as error:
            if count == 1:
                fault = f"cannot take images of {' x '.join(map(str, shape))}, {batch} at a time: {_reason(error)}"
                raise StartError("graph-input", f"{path} {fault}") from None


def _takes_batches(model: Any, shape: Sequence[int]) -> bool:
    """Whether each of several images gets what it gets by itself."""
    images = np.random.default_rng(0).random((_REPEATED, *shape), np.float32)
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    together = compiled(images)[0]
    alone = compiled(images[-1:])[0]
    return together.shape[:1] == (_REPEATED,) and bool(np.allclose(together[-1:], alone, atol=1e-3))


def _converted_script(checkpoint: Checkpoint, shape: Sequence[int]) -> Any:
    try:
        return traced_network(checkpoint.script, shape, ("logits",))
    except (RuntimeError, ValueError, openvino.frontend.OpConversionFailure) as error:
        detail = f"{checkpoint.path} cannot be converted: {_reason(error)}"
        raise StartError("graph-unreadable", detail) from None


def _with_features(model: Any, shape: Sequence[int], path: Path) -> Any:
    outputs = [port for port in model.outputs if len(port.partial_shape) == 2]
    if len(model.outputs) != 1 or not outputs or outputs[0].partial_shape[1].is_dynamic:
        shapes = ", ".join(f"{port.partial_shape}" for port in model.outputs)
        raise StartError("graph-output", f"{path} gives {shapes}; expected is a single output of [n, classes]")
    image = model.inputs[0].get_node()
    logits = outputs[0].get_node().input_value(0)
    cells = _GRID[len(shape) - 1]
    grid = opset13.adaptive_avg_pool(image, np.array([cells] * (len(shape) - 1), np.int64))
    features = opset13.reshape(grid, np.array([0, -1], np.int64), special_zero=True)
    made = openvino.Model([opset13.result(logits), opset13.result(features)], [image])
    return _named(made)


def _named(model: Any) -> Any:
    model.inputs[0].set_names({"image"})
    for output, name in zip(model.outputs, ("logits", "features"), strict=True):
        output.set_names({name})
    return model


def gives_probabilities(logits: FloatArray) -> bool:
    """Whether outputs [n, classes] are probabilities already: a softmax is part of the graph."""
    sums = logits.sum(axis=1)
    return bool((logits >= 0).all() and np.allclose(sums, 1, atol=_SUM_TOLERANCE))


def as_logits(model: Any) -> Any:
    """The same network with the logarithm of its probabilities for logits."""
    results = {next(iter(output.names)): output.get_node().input_value(0) for output in model.outputs}
    logits = opset13.log(opset13.maximum(results["logits"], np.array(_LEAST, np.float32)))
    image = model.inputs[0].get_node()
    return _named(openvino.Model([opset13.result(logits), opset13.result(results["features"])], [image]))


def _reason(error: Exception) -> str:
    """The last line of what OpenVINO says, which is the reason; those before say where in its source it is."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
