"""The colours of an activation map: the same in the Secondary Capture and on the series page."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from worker.pixels.arrays import ByteArray, FloatArray

ACTIVATION_THRESHOLD = 0.3  # below it the map is transparent: weak activation is everywhere and has no meaning

# "plasma" of matplotlib (CC0) at nine even steps: its lightness increases evenly, and no step is grey.
_COLOUR_STEPS: npt.NDArray[np.float32] = np.array(
    [(13, 8, 135), (76, 2, 161), (126, 3, 168), (170, 35, 149), (204, 71, 120), (230, 108, 92), (248, 149, 64),
     (253, 197, 39), (240, 249, 33)], dtype=np.float32,
)  # fmt: skip


def colours(values: FloatArray) -> FloatArray:
    """Colours of the map: values in [0, 1], any shape → [..., 3] in 0-255."""
    steps = np.linspace(0, 1, len(_COLOUR_STEPS))
    channels = [np.interp(values, steps, _COLOUR_STEPS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def overlay(image: ByteArray, activation: FloatArray) -> ByteArray:
    """Overlay the activation map on the slice: [rows, columns] each → uint8 RGB [rows, columns, 3].

    The slice is unchanged below ACTIVATION_THRESHOLD; above it the opacity of the map increases to 60 %.
    """
    shown, above = _above(activation)
    opacity = np.where(shown, 0.25 + 0.35 * above, 0)[..., None]
    grey = np.repeat(image[..., None].astype(np.float32), 3, axis=-1)
    blended: ByteArray = np.rint(grey * (1 - opacity) + colours(above) * opacity).astype(np.uint8)
    return blended


def painted(activation: FloatArray) -> ByteArray:
    """The map alone, to lie over the slice: [rows, columns] → uint8 RGBA [rows, columns, 4], clear below the threshold.

    The opacity is relative to the most that a page chooses for it.
    """
    shown, above = _above(activation)
    alpha = np.where(shown, 0.42 + 0.58 * above, 0.0)
    layered: ByteArray = np.rint(np.concatenate([colours(above), alpha[..., None] * 255], axis=-1)).astype(np.uint8)
    return layered


def _above(activation: FloatArray) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Where the map is shown, and by how much it is above the threshold, in [0, 1]."""
    strength = np.clip(np.nan_to_num(activation), 0, 1).astype(np.float32)
    above = np.clip((strength - ACTIVATION_THRESHOLD) / (1 - ACTIVATION_THRESHOLD), 0, 1).astype(np.float32)
    return strength >= ACTIVATION_THRESHOLD, above
