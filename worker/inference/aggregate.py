"""Slices → one calibrated series result, or "not assessed" with the reason (docs/bundle.md, "The series result")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from worker.inference.bundle import Bundle, FeatureStatistics
from worker.inference.engines import EngineOutputs
from worker.inference.illustrated import IllustratedResult, KeyImage
from worker.inference.preprocess import Volume
from worker.pixels.arrays import FloatArray
from worker.results import Activation, ModelClass, ResultStatus, SliceResult

BoolArray = npt.NDArray[np.bool_]


def slice_probabilities(logits: FloatArray, temperature: float) -> FloatArray:
    """Calibrated probabilities: softmax(logits / temperature), [slices, classes]. Source: Guo et al. 2017."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def tumour_probability(probabilities: FloatArray, classes: Sequence[ModelClass]) -> FloatArray:
    """Probability of any neoplasm: [slices, classes] → [slices]."""
    return np.asarray(probabilities[:, [one.neoplasm for one in classes]].sum(axis=1))


def distance_and_residual(features: FloatArray, statistics: FeatureStatistics) -> tuple[FloatArray, FloatArray]:
    """How far each slice lies from training: [slices, F] → two arrays [slices], both from 0.

    The whitened distance within the space that training's features span, and the length of what lies outside it.
    """
    centred = features - statistics.mean
    # einsum, not @: BLAS threads would fight those of the engine (see resample).
    coordinates = np.einsum("sf,kf->sk", centred, statistics.components)
    distance = np.linalg.norm(coordinates / statistics.scale, axis=1)
    inside = np.einsum("sk,kf->sf", coordinates, statistics.components)
    residual = np.linalg.norm(centred - inside, axis=1)
    return distance.astype(np.float32), residual.astype(np.float32)


def in_distribution(features: FloatArray, bundle: Bundle) -> BoolArray:
    """Which slices resemble the training data, [slices]; one whose features are not finite does not."""
    limits = bundle.out_of_distribution
    distance, residual = distance_and_residual(features, bundle.statistics)
    return np.asarray((distance <= limits.maximum_distance) & (residual <= limits.maximum_residual))


def relative_distance(features: FloatArray, bundle: Bundle) -> FloatArray:
    """How unlike the training data each slice is, as a multiple of what is accepted: [slices], 1 at the limit."""
    limits = bundle.out_of_distribution
    distance, residual = distance_and_residual(features, bundle.statistics)
    return np.asarray(np.maximum(distance / limits.maximum_distance, residual / limits.maximum_residual), np.float32)


def deciding_slices(tumour: FloatArray, allowed: BoolArray, bundle: Bundle) -> npt.NDArray[np.intp]:
    """The allowed slices with the highest tumour probability, the highest first: [k] indices, [] when none is allowed.

    Equal ones in stack order, so that the answer does not depend on the sorting.
    """
    candidates = np.flatnonzero(allowed)
    k = max(bundle.aggregation.top_k, math.ceil(bundle.aggregation.top_fraction * len(candidates)))
    return candidates[np.argsort(-tumour[candidates], kind="stable")][:k]


def aggregate(volume: Volume, outputs: EngineOutputs, bundle: Bundle) -> IllustratedResult:
    """What the model says of the series; `outputs` are those of `volume.tensor`."""
    classes = bundle.identity.classes
    probabilities = slice_probabilities(outputs.logits, bundle.temperature)
    allowed = in_distribution(outputs.features, bundle)
    deciding = deciding_slices(tumour_probability(probabilities, classes), allowed, bundle)
    distances = relative_distance(outputs.features, bundle)
    slices = _slice_results(volume, probabilities, allowed, deciding, distances)
    accepted, wanted = int(allowed.sum()), bundle.thresholds.minimum_in_distribution * len(allowed)
    if len(deciding) == 0 or accepted < wanted:
        detail = f"{accepted} of {len(allowed)} slices resemble the brain MRI that the model was trained on."
        return _not_assessed("out-of-distribution", detail, {}, slices, volume, len(slices) // 2)
    means = probabilities[deciding].mean(axis=0)
    best = int(means.argmax())
    by_class = {one.name: float(mean) for one, mean in zip(classes, means, strict=True)}
    shown = int(deciding[probabilities[deciding, best].argmax()])
    probability, needed = float(means[best]), bundle.thresholds.needed(classes[best].neoplasm)
    if not probability >= needed:
        detail = f"The likeliest class has the probability {probability:.2f}; {needed:.2f} is needed to say it."
        return _not_assessed("too-uncertain", detail, by_class, slices, volume, shown)
    activation = volume.map_on_display(shown, normalised(outputs.maps[shown, best]))
    return IllustratedResult(
        status=ResultStatus.CLASSIFIED,
        label=classes[best].name,
        probability=probability,
        probabilities=by_class,
        reason=None,
        detail=None,
        slices=tuple(
            replace(one, activation=_activation(volume, index, outputs.maps[index, best])) if one.deciding else one
            for index, one in enumerate(slices)
        ),
        key_image=KeyImage(shown, volume.displayed(shown), activation),
    )


def normalised(activation_map: FloatArray) -> FloatArray:
    """A class activation map [h, w] as parts of its peak, [0, 1]; 0 where a place speaks less than the average.

    The average of the map is the class's logit, so what is left is where the evidence lies, whatever its amount.
    """
    above = np.maximum(activation_map - activation_map.mean(), 0.0)
    peak = float(above.max())
    return np.asarray(above / peak if peak > 0 else above, np.float32)


def _activation(volume: Volume, index: int, activation_map: FloatArray) -> Activation:
    """The map of a slice as it is kept beside its probabilities."""
    rows = np.rint(normalised(activation_map) * 255).astype(np.uint8)
    return Activation(tuple(tuple(row) for row in rows.tolist()), *volume.square_on_display(index))


def _slice_results(
    volume: Volume,
    probabilities: FloatArray,
    allowed: BoolArray,
    deciding: npt.NDArray[np.intp],
    distances: FloatArray,
) -> tuple[SliceResult, ...]:
    decided = set(deciding.tolist())
    return tuple(
        SliceResult(
            sop_class_uid=frame.sop_class_uid,
            sop_instance_uid=frame.sop_instance_uid,
            frame_number=frame.frame_number,
            position_mm=frame.position_mm,
            probabilities=tuple(probabilities[index].tolist()),
            in_distribution=bool(allowed[index]),
            deciding=index in decided,
            distance=float(distances[index]) if np.isfinite(distances[index]) else None,
        )
        for index, frame in enumerate(volume.frames)
    )


def _not_assessed(
    reason: str,
    detail: str,
    probabilities: dict[str, float],
    slices: tuple[SliceResult, ...],
    volume: Volume,
    shown: int,
) -> IllustratedResult:
    """No class; the picture shows what was looked at, without a map that would suggest a finding."""
    return IllustratedResult(
        status=ResultStatus.NOT_ASSESSED,
        label=None,
        probability=None,
        probabilities=probabilities,
        reason=reason,
        detail=detail,
        slices=slices,
        key_image=KeyImage(shown, volume.displayed(shown), None),
    )
