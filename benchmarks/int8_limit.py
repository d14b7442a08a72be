"""The roofline of the int8 network: how fast int8 convolutions are on this machine.

OpenVINO runs each convolution of the int8 network alone, with 8-bit input and output and the real shapes of the
weights. The best rate of any of them is the machine's `peak`; the roofline is the time of the network's operations at
that rate. `alone` is the time of all convolutions, each at its own rate: the bound for a network of these shapes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as operations

# Not part of the network: a convolution so large that its overhead is negligible.
_LARGE = (128, 128, 28, 28, 3, 1, 1)


@dataclass(frozen=True, slots=True)
class Limit:
    """`operations` per image (two per multiply-add), `peak` operations per second, seconds per image `alone`."""

    operations: float
    peak: float
    alone: float

    @property
    def images_a_second(self) -> float:
        return self.peak / self.operations


Shape = tuple[int, int, int, int, int, int, int]  # channels in and out, rows, columns, kernel, stride, padding


def int8_limit(network: Path, size: int, batch: int, threads: int, repeats: int) -> Limit:
    """Measure the limit of an OpenVINO network with input [batch, 1, size, size]."""
    shapes = _convolutions(network, size, batch)
    seconds = {shape: _seconds(shape, batch, threads, repeats) for shape in {*shapes, _LARGE}}
    peak = max(batch * _operations(shape) / shortest for shape, shortest in seconds.items())
    return Limit(sum(map(_operations, shapes)), peak, sum(seconds[shape] for shape in shapes) / batch)


def _convolutions(network: Path, size: int, batch: int) -> list[Shape]:
    model = openvino.Core().read_model(network)
    model.reshape([batch, 1, size, size])
    shapes = []
    for operation in model.get_ops():
        if operation.get_type_name() == "Convolution":
            _, channels, rows, columns = operation.input(0).get_shape()
            outputs, _, kernel, _ = operation.input(1).get_shape()
            attributes = operation.get_attributes()
            stride, padding = attributes["strides"][0], attributes["pads_begin"][0]
            shapes.append((channels, outputs, rows, columns, kernel, stride, padding))
    return shapes


def _operations(shape: Shape) -> float:
    channels, outputs, rows, columns, kernel, stride, padding = shape
    produced = math.prod((length + 2 * padding - kernel) // stride + 1 for length in (rows, columns))
    return 2.0 * produced * channels * outputs * kernel**2


def _seconds(shape: Shape, batch: int, threads: int, repeats: int) -> float:
    """The shortest time of the convolution alone, by OpenVINO's profiling: without the reordering around it."""
    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    options |= {"INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True}
    request = openvino.Core().compile_model(_alone(shape, batch), "CPU", options).create_infer_request()
    picture = np.random.default_rng(1).integers(0, 256, (batch, *shape[:1], *shape[2:4]), np.uint8)
    request.set_input_tensor(openvino.Tensor(picture))
    shortest = math.inf
    for _ in range(repeats):
        request.infer()
        nodes = request.get_profiling_info()
        [seconds] = [node.real_time.total_seconds() for node in nodes if node.node_type == "Convolution"]
        shortest = min(shortest, seconds)
    return shortest


def _alone(shape: Shape, batch: int) -> openvino.Model:
    """A convolution and a ReLU with uint8 input and output, as in a quantised network."""
    channels, outputs, rows, columns, kernel, stride, padding = shape
    picture = operations.parameter([batch, channels, rows, columns], np.uint8)
    real = operations.multiply(operations.convert(picture, np.float32), np.float32(1 / 255))
    bytes_ = np.random.default_rng(2).integers(-127, 128, (outputs, channels, kernel, kernel), np.int8)
    scale = np.full((outputs, 1, 1, 1), 1 / 127 / math.sqrt(channels * kernel**2), np.float32)
    weights = operations.multiply(
        operations.convert(operations.constant(bytes_), np.float32), operations.constant(scale)
    )
    made = operations.convolution(real, weights, [stride] * 2, [padding] * 2, [padding] * 2, [1, 1])
    levels = [np.float32(level) for level in (0, 2.55, 0, 255)]
    quantised = operations.fake_quantize(operations.relu(made), *levels, 256)
    result = operations.result(operations.convert(quantised, np.uint8))
    return openvino.Model([result], [picture], "convolution")
