"""What the page shows as pictures: slices by inference's decoding, activation maps in outbound's colours."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from worker.inference import show
from worker.outbound.draw_picture import ACTIVATION_THRESHOLD, colours
from worker.values import Activation

_SIZE = 256


class Viewer:
    """See `query.parts.Pictures`."""

    def window(self, files: Sequence[Path]) -> tuple[float, float]:
        return show.grey_window(files)

    def slice_png(self, file: Path, frame_number: int | None, window: tuple[float, float]) -> bytes:
        return show.slice_png(file, frame_number, window)

    def activation_png(self, activation: Activation) -> bytes:
        """The map over the whole slice, stretched to a square; clear below the threshold, as in the sent picture."""
        map_ = Image.fromarray(np.array(activation.rows, np.float32))
        side = (max(1, round(activation.width * _SIZE)), max(1, round(activation.height * _SIZE)))
        canvas = Image.new("F", (_SIZE, _SIZE), 0.0)
        resized = map_.resize(side, Image.Resampling.BICUBIC)
        canvas.paste(resized, (round(activation.left * _SIZE), round(activation.top * _SIZE)))
        strength = np.clip(np.asarray(canvas, np.float32) / 255, 0, 1)
        above = np.clip((strength - ACTIVATION_THRESHOLD) / (1 - ACTIVATION_THRESHOLD), 0, 1).astype(np.float32)
        alpha = np.where(strength >= ACTIVATION_THRESHOLD, 0.42 + 0.58 * above, 0.0)
        painted = np.concatenate([colours(above), alpha[..., None] * 255], axis=-1)
        buffer = io.BytesIO()
        Image.fromarray(np.rint(painted).astype(np.uint8), "RGBA").save(buffer, format="PNG")
        return buffer.getvalue()
