"""Antialiased separable resampling as two matrix products: fast, deterministic, and nothing but numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from worker.values import FloatArray


@dataclass(frozen=True)
class AxisWeights:
    """How one axis is resampled: output = weights @ input[first : first + weights.shape[1]].

    Every row of `weights` sums to 1 (beyond the edge the edge pixel continues); `coverage` [outputs] in [0, 1] is
    the part of each output pixel that lies on the input at all.
    """

    first: int
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
    first = max(0, math.ceil(centres[0] - reach))
    last = min(count - 1, math.floor(centres[-1] + reach))
    distance = np.abs(np.arange(first, last + 1, dtype=np.float32) - centres[:, None].astype(np.float32))
    weights = np.maximum(0.0, 1.0 - distance * np.float32(1 / reach))
    weights /= weights.sum(axis=1, keepdims=True)
    return AxisWeights(first, weights, ((inside[1:] - inside[:-1]) / step).astype(np.float32))


def resample(picture: FloatArray, rows: AxisWeights, columns: AxisWeights) -> FloatArray:
    """[rows, columns] resampled along both axes, float32."""
    bottom = rows.first + rows.weights.shape[1]
    right = columns.first + columns.weights.shape[1]
    part = picture[rows.first : bottom, columns.first : right].astype(np.float32)
    return rows.weights @ part @ columns.weights.T


def coverage(rows: AxisWeights, columns: AxisWeights) -> FloatArray:
    """The part of each output pixel that lies on the picture: [rows, columns] in [0, 1]."""
    return np.outer(rows.coverage, columns.coverage).astype(np.float32)
