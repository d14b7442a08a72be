"""A trained network as the bundle's engines load it: safetensors for torch, OpenVINO fp32 and int8."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nncf
import openvino
import torch
from nncf.quantization.range_estimator import RangeEstimatorParametersSet
from safetensors.torch import save_file

from monai_train.data.dataset import Pictures
from monai_train.networks.classifier import Classifier
from worker.pixels.arrays import FloatArray

_CALIBRATION_PICTURES = 300


def write_weights(model: Classifier, path: Path) -> None:
    """Write the weights, rounding convolutions and linear layers to half precision in `model` too, for every engine."""
    with torch.no_grad():
        for parameter in model.net.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half().float())
    state = model.net.state_dict()
    stored = {key: value.half() if value.ndim > 1 else value for key, value in state.items()}
    save_file({key: value.contiguous() for key, value in stored.items()}, path)


def image_tensor(pixels: torch.Tensor) -> FloatArray:
    """uint8 [n, 1, s, s] → the float32 input of the engines, in [0, 1]."""
    return (pixels.float() / 255).numpy()


def openvino_network(model: Classifier, size: int) -> Any:
    """Convert to OpenVINO at full precision: `image` → `logits`, `features`, `maps` (docs/bundle.md)."""
    return traced_network(model, (1, size, size), ("logits", "features", "maps"))


def traced_network(model: torch.nn.Module, shape: Sequence[int], names: Sequence[str]) -> Any:
    """Convert a network that takes `image` [n, *shape] to OpenVINO at full precision, with the names of its outputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # OpenVINO traces with torch.jit, which torch deprecates
        converted = openvino.convert_model(model, example_input=torch.zeros(1, *shape), input=[-1, *shape])
    converted.inputs[0].set_names({"image"})
    for output, name in zip(converted.outputs, names, strict=True):
        output.set_names({name})
    return converted


def write_networks(model: Classifier, training: Pictures, folder: Path) -> None:
    """Write model_fp32.xml, and model.xml quantised to int8 on up to 300 training pictures."""
    converted = openvino_network(model, training.pixels.shape[-1])
    openvino.save_model(converted, folder / "model_fp32.xml", compress_to_fp16=False)
    chosen = torch.linspace(0, len(training.rows) - 1, min(_CALIBRATION_PICTURES, len(training.rows))).long()
    images = [{"image": image_tensor(training.pixels[i : i + 1])} for i in chosen.tolist()]
    # The full bias correction and plain minima and maxima take a few seconds more than the defaults and come five
    # times nearer to full precision (root mean square of the logits' differences on validation, 0.02 against 0.10).
    quantized = nncf.quantize(
        converted,
        nncf.Dataset(images),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        fast_bias_correction=False,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
        ),
    )
    openvino.save_model(quantized, folder / "model.xml")
