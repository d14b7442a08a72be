"""Slices of a healthy volume as training heads: every level from the skull base to the vertex, in three planes.

The public pictures without a tumour are mostly mid-brain; a model that never saw a normal skull base mistakes it for a
tumour.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pydicom import dcmread

from worker.errors import NotAssessable, StartError
from worker.inference.preprocess import Preprocessing, preprocess, preprocess_image

_STEP_MM = 3.0
_HEAD_MM = 170.0  # from the vertex to below the skull base; a brain series does not extend further down
_LEAST_HEAD = 0.15  # fraction of a reformatted picture brighter than a tenth of the volume's range
_LEAST_TISSUE = 0.06  # fraction of the pixels; slices of air are left out


def healthy_slices(folder: Path, definition: Preprocessing) -> tuple[torch.Tensor, str]:
    """Slices of an axial series, uint8 [m, 1, s, s], and the SHA-256 of its files' contents.

    Native slices are windowed together, as the worker does with a series; reformatted slices individually, like
    pictures. Raises StartError unless the folder holds exactly one readable axial series.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    try:
        volume = preprocess(files, definition)
    except NotAssessable as error:
        raise StartError(error.reason, f"the healthy volume cannot be used: {error.detail}") from error
    frames = volume.frames
    if frames[0].plane is None or frames[0].plane.value != "axial" or len(frames) < 2:
        raise StartError("not-axial", "the healthy volume must be one axial series")
    step = abs((frames[-1].position_mm or 0.0) - (frames[0].position_mm or 0.0)) / (len(frames) - 1)
    stride = max(1, round(_STEP_MM / step))
    head = max(2, round(_HEAD_MM / step))  # frames go from the neck to the vertex
    kept = [volume.tensor[-head::stride]]
    for picture in _reformatted([frame.path for frame in frames], step):
        try:
            kept.append(preprocess_image(picture, definition)[None])
        except NotAssessable:
            continue
    slices = np.concatenate(kept)
    slices = slices[(slices > 0.1).mean(axis=(1, 2, 3)) > _LEAST_TISSUE]
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files))
    return torch.from_numpy((slices * 255).round().astype(np.uint8)), digest.hexdigest()


def _reformatted(paths: list[Path], step: float) -> Iterator[npt.NDArray[Any]]:
    """Coronal and sagittal pictures with square pixels, head up; `paths` from the neck to the vertex."""
    first = dcmread(paths[0], stop_before_pixels=True)
    down, across = (float(value) for value in first.PixelSpacing)
    stack = np.stack([dcmread(path).pixel_array for path in reversed(paths)])
    brightest = max(1.0, float(np.percentile(stack, 99.9)))
    stack = np.clip(stack / brightest * 255, 0, 255).astype(np.uint8)
    for axis, spacing, width in ((1, down, across), (2, across, down)):
        for index in range(0, stack.shape[axis], max(1, round(_STEP_MM / spacing))):
            picture = stack.take(index, axis=axis)
            if (picture > 25).mean() < _LEAST_HEAD:
                continue  # only noise or skin, which the crop would enlarge
            plane = Image.fromarray(picture)
            size = round(plane.width * width / step), plane.height
            yield np.asarray(plane.resize(size, Image.Resampling.BILINEAR))
