"""Slices → one calibrated series result, or "not assessed" with the reason: the rule of bundle formats 1 and 3, and
what all formats need (docs/bundle.md, "The series result")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from worker.inference.bundle import Bundle, FeatureStatistics
from worker.inference.display import key_image
from worker.inference.engines import EngineOutputs
from worker.inference.illustrated import IllustratedResult
from worker.inference.preprocess import Volume
from worker.inference.series_rule import softmax
from worker.pixels.arrays import FloatArray
from worker.results import Activation, ModelClass, ResultStatus, SliceResult

BoolArray = npt.NDArray[np.bool_]


def slice_probabilities(logits: FloatArray, temperature: float) -> FloatArray:
    """Calibrated probabilities: softmax(logits / temperature), [slices, classes]. Source: Guo et al. 2017."""
    return np.asarray(softmax(logits.astype(np.float64) / temperature), np.float32)


def lesion_probability(probabilities: FloatArray, classes: Sequence[ModelClass]) -> FloatArray:
    """Probability of any class with a finding: [slices, classes] → [slices]."""
    return np.asarray(probabilities[:, [model_class.is_lesion for model_class in classes]].sum(axis=1))


def distance_and_residual(features: FloatArray, statistics: FeatureStatistics) -> tuple[FloatArray, FloatArray]:
    """Distance of each slice from the training data: [slices, F] → two arrays [slices], both from 0.

    The whitened distance within the subspace that the training features span, and the length of the rest outside it.
    """
    centred = features - statistics.mean
    # einsum, not @: BLAS threads would compete with those of the engine (see resample).
    coordinates = np.einsum("sf,kf->sk", centred, statistics.components)
    distance = np.linalg.norm(coordinates / statistics.scale, axis=1)
    inside = np.einsum("sk,kf->sf", coordinates, statistics.components)
    residual = np.linalg.norm(centred - inside, axis=1)
    return distance.astype(np.float32), residual.astype(np.float32)


def in_distribution(features: FloatArray, bundle: Bundle) -> BoolArray:
    """Which slices resemble the training data, [slices]; a slice with features that are not finite does not."""
    limits = bundle.out_of_distribution
    distance, residual = distance_and_residual(features, bundle.statistics)
    return np.asarray((distance <= limits.maximum_distance) & (residual <= limits.maximum_residual))


def relative_distance(features: FloatArray, bundle: Bundle) -> FloatArray:
    """Distance of each slice from the training data as a multiple of what is accepted: [slices], 1 at the limit."""
    limits = bundle.out_of_distribution
    distance, residual = distance_and_residual(features, bundle.statistics)
    return np.asarray(np.maximum(distance / limits.maximum_distance, residual / limits.maximum_residual), np.float32)


def deciding_slices(lesion: FloatArray, allowed: BoolArray, bundle: Bundle) -> npt.NDArray[np.intp]:
    """The allowed slices with the highest probability of a finding, the highest first: [k] indices, [] without any.

    Slices of equal probability come in stack order, so that the result does not depend on the sorting algorithm.
    """
    candidates = np.flatnonzero(allowed)
    k = max(bundle.aggregation.top_k, math.ceil(bundle.aggregation.top_fraction * len(candidates)))
    return candidates[np.argsort(-lesion[candidates], kind="stable")][:k]


def aggregate(volume: Volume, outputs: EngineOutputs, bundle: Bundle) -> IllustratedResult:
    """Combine the slices' outputs into the result of the series; `outputs` are those of `volume.tensor`."""
    classes = bundle.identity.classes
    probabilities = slice_probabilities(outputs.logits, bundle.temperature)
    allowed = in_distribution(outputs.features, bundle)
    deciding = deciding_slices(lesion_probability(probabilities, classes), allowed, bundle)
    distances = relative_distance(outputs.features, bundle)
    slices = slice_results(volume, probabilities, allowed, deciding, distances)
    accepted, required = int(allowed.sum()), bundle.thresholds.minimum_in_distribution * len(allowed)
    if len(deciding) == 0 or accepted < required:
        detail = f"{accepted} of {len(allowed)} slices resemble the {_trained_on(bundle)}."
        return unassessed("out-of-distribution", detail, {}, slices, volume, len(slices) // 2)
    means = probabilities[deciding].mean(axis=0)
    best = int(means.argmax())
    shown = int(deciding[probabilities[deciding, best].argmax()])
    maps = volume.upright(outputs.maps)[:, best] if outputs.maps.size and classes[best].is_lesion else None
    return _answered(volume, means, slices, shown, bundle, maps)


def aggregate_volume(volume: Volume, outputs: EngineOutputs, bundle: Bundle) -> IllustratedResult:
    """The result of a series of which the model reads the volume at once; `outputs` have a single row.

    Every slice has the probabilities of the volume; none decides, and none has a map.
    """
    count = len(volume.frames)
    probabilities = slice_probabilities(outputs.logits, bundle.temperature)
    allowed = in_distribution(outputs.features, bundle).repeat(count)
    distances = relative_distance(outputs.features, bundle).repeat(count)
    slices = slice_results(volume, probabilities.repeat(count, axis=0), allowed, np.array([], np.intp), distances)
    if not allowed.all():
        detail = f"The volume does not resemble the {_trained_on(bundle)}."
        return unassessed("out-of-distribution", detail, {}, slices, volume, count // 2)
    return _answered(volume, probabilities[0], slices, count // 2, bundle, None)


def _trained_on(bundle: Bundle) -> str:
    if bundle.input is None:
        return "brain MRI that the model was trained on"
    return "images with which the model was imported"


def _answered(
    volume: Volume,
    means: FloatArray,
    slices: tuple[SliceResult, ...],
    shown: int,
    bundle: Bundle,
    maps: FloatArray | None,
) -> IllustratedResult:
    """The result of the classes' probabilities [classes]; `maps` [slices, h, w] of the likeliest, where it has any."""
    classes = bundle.identity.classes
    best = int(means.argmax())
    by_class = {model_class.name: float(mean) for model_class, mean in zip(classes, means, strict=True)}
    probability, needed = float(means[best]), bundle.thresholds.needed(classes[best].is_lesion)
    if not probability >= needed:
        detail = f"The likeliest class has the probability {probability:.2f}, below the required {needed:.2f}."
        return unassessed("too-uncertain", detail, by_class, slices, volume, shown)
    return IllustratedResult(
        status=ResultStatus.CLASSIFIED,
        label=classes[best].name,
        probability=probability,
        probabilities=by_class,
        reason=None,
        detail=None,
        slices=tuple(
            with_map(volume, index, item, maps[index]) if item.deciding and maps is not None else item
            for index, item in enumerate(slices)
        ),
        key_image=key_image(volume, shown, normalised(maps[shown]) if maps is not None else None),
    )


def normalised(activation_map: FloatArray) -> FloatArray:
    """A class activation map [h, w] as fractions of its peak, [0, 1]; 0 where it is below its average.

    The average of the map is the class's logit, so what remains is where the evidence lies, regardless of its amount.
    """
    above = np.maximum(activation_map - activation_map.mean(), 0.0)
    peak = float(above.max())
    return np.asarray(above / peak if peak > 0 else above, np.float32)


def with_map(volume: Volume, index: int, item: SliceResult, activation_map: FloatArray) -> SliceResult:
    """The result of a slice with its map [h, w]; of a reformatted slice, the received frame through the map's peak."""
    shares = normalised(activation_map)
    row, column = np.unravel_index(int(shares.argmax()), shares.shape)
    frame, square = volume.frame_at(index, (row + 0.5) / shares.shape[0], (column + 0.5) / shares.shape[1])
    rows = tuple(tuple(values) for values in np.rint(shares * 255).astype(np.uint8).tolist())
    return replace(
        item,
        sop_class_uid=frame.sop_class_uid,
        sop_instance_uid=frame.sop_instance_uid,
        frame_number=frame.frame_number,
        activation=Activation(rows, *square) if square is not None else None,
    )


def slice_results(
    volume: Volume,
    probabilities: FloatArray,
    allowed: BoolArray,
    deciding: npt.NDArray[np.intp],
    distances: FloatArray,
) -> tuple[SliceResult, ...]:
    """What is reported of each slice; `deciding` are indices."""
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


def unassessed(
    reason: str,
    detail: str,
    probabilities: dict[str, float],
    slices: tuple[SliceResult, ...],
    volume: Volume,
    shown: int,
) -> IllustratedResult:
    """A result without a class; its key image has no activation map, which would suggest a finding."""
    return IllustratedResult(
        status=ResultStatus.NOT_ASSESSED,
        label=None,
        probability=None,
        probabilities=probabilities,
        reason=reason,
        detail=detail,
        slices=slices,
        key_image=key_image(volume, shown, None),
    )
