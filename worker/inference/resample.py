"""Antialiased separable resampling by elementwise numpy in float32.

Matrix products would use the BLAS threads (fifteen times slower beside another busy process) and round differently on
every CPU, while these sums give the same bits everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.pixels.arrays import FloatArray


@dataclass(frozen=True)
class AxisWeights:
    """The resampling of an axis: output i = sum over t of weights[t, i] * input[indices[t, i]].

    `indices` and `weights` are [taps, outputs]; the weights of an output sum to 1 (beyond the edge, the edge pixel
    is repeated). `coverage` [outputs] in [0, 1] is the fraction of each output pixel that lies on the input.
    """

    indices: npt.NDArray[np.intp]
    weights: FloatArray
    coverage: FloatArray


def axis_weights(count: int, pitch: float, start: float, step: float, outputs: int) -> AxisWeights:
    """Weights from `count` pixels of width `pitch`, the first beginning at 0, to `outputs` pixels of width `step`,
    the first beginning at `start`. Linear interpolation, widened to a triangle of one output pixel when shrinking.
    """
    edges = start + step * np.arange(outputs + 1)
    inside = np.clip(edges, 0.0, count * pitch)
    centres = np.clip((edges[:-1] + edges[1:]) / (2 * pitch) - 0.5, 0.0, count - 1.0)
    reach = max(1.0, step / pitch)
    taps = np.arange(math.ceil(2 * reach) + 1)[:, None]
    indices = np.floor(centres - reach).astype(np.intp) + taps
    weights = np.maximum(0.0, 1.0 - np.abs(indices - centres) / reach)
    weights[(indices < 0) | (indices >= count)] = 0.0
    weights /= weights.sum(axis=0)
    return AxisWeights(
        np.clip(indices, 0, count - 1),
        weights.astype(np.float32),
        ((inside[1:] - inside[:-1]) / step).astype(np.float32),
    )


def resample(image: npt.NDArray[Any], rows: AxisWeights, columns: AxisWeights) -> FloatArray:
    """[rows, columns] resampled along both axes, float32."""
    left, right = int(columns.indices.min()), int(columns.indices.max()) + 1
    tall = _along_rows(image[:, left:right], rows, 0)
    return np.ascontiguousarray(_along_rows(np.ascontiguousarray(tall.T), columns, left).T)


def _along_rows(image: npt.NDArray[Any], axis: AxisWeights, offset: int) -> FloatArray:
    top, bottom = int(axis.indices.min()), int(axis.indices.max()) + 1
    occupied = image[top - offset : bottom - offset].astype(np.float32)
    result = np.zeros((axis.indices.shape[1], occupied.shape[1]), np.float32)
    term = np.empty_like(result)
    for indices, weights in zip(axis.indices - top, axis.weights, strict=True):
        np.take(occupied, indices, axis=0, out=term, mode="clip")
        term *= weights[:, None]
        result += term
    return result


def coverage(rows: AxisWeights, columns: AxisWeights) -> FloatArray:
    """The fraction of each output pixel that lies on the image: [rows, columns] in [0, 1]."""
    return np.outer(rows.coverage, columns.coverage)
