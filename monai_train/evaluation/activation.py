"""Where a model looks: whether its activation maps hit the tumour's box, and pictures of its worst mistakes."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from monai_train.evaluation.evaluate import Evidence
from monai_train.evaluation.intervals import Estimate, share_estimate
from monai_train.evaluation.metrics import BoolArray, FigureArray, Predictions, confidences
from worker.inference.aggregate import normalised
from worker.pixels.arrays import ByteArray, FloatArray

ENLARGED = 1.1
_HEAT = np.array([213, 94, 0], np.float32)  # Okabe and Ito's vermilion
_BOX = (86, 180, 233)
_PER_PATIENT = 2


@dataclass(frozen=True, slots=True)
class MapHits:
    """The share of tumour slices with a box whose map has its centre of mass in the box.

    `centre` is the share that a map would reach that always points at the middle of the picture.
    """

    hits: Estimate
    centre: Estimate


def map_hits(predictions: Predictions, evidence: Evidence) -> MapHits | None:
    """Hits of the map of the answer, which the worker would show; "no tumour" and no answer are misses.

    None if no slice has a box.
    """
    no_tumour = predictions.classes.no_tumour
    boxed = np.flatnonzero(np.isfinite(evidence.boxes).all(axis=1) & (predictions.truth != no_tumour))
    if not len(boxed):
        return None
    answers = predictions.predicted[boxed]
    boxes = evidence.boxes[boxed]
    called_tumour = (answers != no_tumour) & (answers != predictions.unreadable)
    centres = np.full((len(boxed), 2), -1.0)
    for k in np.flatnonzero(called_tumour):
        centres[k] = centre_of_mass(normalised(evidence.maps[boxed[k], answers[k]]))
    groups = predictions.groups[boxed]
    middle = np.full((len(boxed), 2), 0.5)
    return MapHits(share_estimate(in_boxes(centres, boxes), groups), share_estimate(in_boxes(middle, boxes), groups))


def centre_of_mass(activation: FloatArray) -> tuple[float, float]:
    """x and y of a map [h, w] of weights >= 0, as fractions of the picture; its middle for a map of zeros."""
    total = float(activation.sum())
    if total <= 0:
        return 0.5, 0.5
    height, width = activation.shape
    x = float(activation.sum(axis=0) @ (np.arange(width) + 0.5)) / (total * width)
    y = float(activation.sum(axis=1) @ (np.arange(height) + 0.5)) / (total * height)
    return x, y


def in_boxes(points: FigureArray, boxes: npt.NDArray[np.floating]) -> BoolArray:
    """Which points [n, 2] lie in their box [n, 4] (x centre, y centre, width, height) enlarged by a tenth."""
    return np.asarray((np.abs(points - boxes[:, :2]) <= ENLARGED * boxes[:, 2:] / 2).all(axis=1))


def worst_mistakes(predictions: Predictions, most: int) -> list[int]:
    """The wrong answers with the highest probability first, at most two per patient; unreadable pictures excluded."""
    readable = np.flatnonzero(predictions.predicted != predictions.unreadable)
    confidence, right = confidences(predictions)
    chosen: list[int] = []
    of_patient: Counter[str] = Counter()
    for k in np.argsort(-confidence, kind="stable"):
        index = int(readable[k])
        group = str(predictions.groups[index])
        if not right[k] and of_patient[group] < _PER_PATIENT and len(chosen) < most:
            of_patient[group] += 1
            chosen.append(index)
    return chosen


def overlay(pixels: ByteArray, activation_map: FloatArray, box: FloatArray) -> bytes:
    """PNG of a picture [s, s], and beside it the same with the map [h, w] in orange and the tumour's box in blue."""
    size = pixels.shape[0]
    heat = Image.fromarray(normalised(activation_map)).resize((size, size), Image.Resampling.BICUBIC)
    weight = 0.65 * np.clip(np.asarray(heat), 0, 1)[..., None]
    grey = np.repeat(pixels[..., None], 3, axis=2).astype(np.float32)
    shown = Image.fromarray((grey * (1 - weight) + _HEAT * weight).astype(np.uint8))
    if np.isfinite(box).all():
        x, y, width, height = (float(fraction) * size for fraction in box)
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        ImageDraw.Draw(shown).rectangle([round(corner) for corner in corners], outline=_BOX)
    both = Image.new("RGB", (2 * size, size))
    both.paste(Image.fromarray(grey.astype(np.uint8)), (0, 0))
    both.paste(shown, (size, 0))
    stream = io.BytesIO()
    both.save(stream, "PNG")
    return stream.getvalue()
