from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from worker.inference.aggregate import (
    aggregate,
    deciding_slices,
    distance_and_residual,
    in_distribution,
    lesion_probability,
    normalised,
    slice_probabilities,
)
from worker.inference.bundle import Bundle, FeatureStatistics, TopSlices
from worker.inference.bundle_schema import Aggregation, Thresholds
from worker.inference.engines import EngineOutputs
from worker.inference.illustrated import IllustratedResult
from worker.inference.preprocess import Volume, preprocess
from worker.results import ResultStatus

GLIOMA, MENINGIOMA, PITUITARY, NOTUMOR = np.eye(4, dtype=np.float32)


@given(
    logits=arrays.arrays(np.float32, (5, 4), elements=st.floats(-80, 80, width=32)),
    temperature=st.floats(0.1, 10),
)
def test_probabilities_sum_to_one_and_keep_the_order(logits: Any, temperature: float) -> None:
    probabilities = slice_probabilities(logits, temperature)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    best = logits.argmax(axis=1)
    assert (probabilities[np.arange(5), best] >= probabilities.max(axis=1) - 1e-6).all()


def test_temperature_softens() -> None:
    logits = np.array([[4.0, 0.0, 0.0, 0.0]], np.float32)
    assert slice_probabilities(logits, 1)[0, 0] == pytest.approx(np.e**4 / (np.e**4 + 3), rel=1e-5)
    assert slice_probabilities(logits, 4)[0, 0] == pytest.approx(np.e / (np.e + 3), rel=1e-5)


def test_lesion_probability_is_that_of_the_neoplasms(bundle: Bundle) -> None:
    probabilities = np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)
    assert lesion_probability(probabilities, bundle.identity.classes) == pytest.approx([0.6])


def test_distance_lies_within_the_space_of_training_and_residual_outside() -> None:
    statistics = FeatureStatistics(
        mean=np.array([1, 1, 1], np.float32),
        components=np.array([[1, 0, 0], [0, 1, 0]], np.float32),
        scale=np.array([1, 2], np.float32),
    )
    features = np.array([[1, 1, 1], [4, 1, 1], [1, 9, 1], [1, 1, 6]], np.float32)
    distance, residual = distance_and_residual(features, statistics)
    np.testing.assert_allclose(distance, [0, 3, 4, 0], atol=1e-6)
    np.testing.assert_allclose(residual, [0, 0, 0, 5], atol=1e-6)


def test_features_that_are_not_numbers_are_out_of_distribution(bundle: Bundle) -> None:
    features = np.repeat(bundle.statistics.mean[None], 2, axis=0)
    features[1, 0] = np.nan
    assert in_distribution(features, bundle).tolist() == [True, False]


@given(
    tumour=arrays.arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 1, width=32)),
    top_k=st.integers(1, 10),
    top_fraction=st.floats(0, 1),
    data=st.data(),
)
def test_deciding_slices_are_the_most_tumour_like_allowed_ones(
    tumour: Any, top_k: int, top_fraction: float, data: st.DataObject
) -> None:
    allowed = data.draw(arrays.arrays(np.bool_, len(tumour)))
    bundle: Any = type("B", (), {"aggregation": Aggregation(top_k=top_k, top_fraction=top_fraction)})
    chosen = deciding_slices(tumour, allowed, bundle)
    n = int(allowed.sum())
    assert len(chosen) == min(n, max(top_k, int(np.ceil(top_fraction * n))))
    assert allowed[chosen].all()
    left = np.setdiff1d(np.flatnonzero(allowed), chosen)
    if len(left) and len(chosen):
        assert tumour[left].max() <= tumour[chosen].min()


def test_normalised_map_is_what_exceeds_its_mean() -> None:
    given_map = np.array([[0, 0], [2, 4]], np.float32)
    np.testing.assert_allclose(normalised(given_map), [[0, 0], [0.2, 1]], atol=1e-6)
    assert normalised(given_map + 100) == pytest.approx(normalised(given_map), abs=1e-5)
    assert normalised(np.ones((2, 2), np.float32)).max() == 0


@pytest.fixture
def volume(bundle: Bundle, bundle_folder: Path) -> Volume:
    """Three slices."""
    return preprocess(sorted((bundle_folder / "golden/head").glob("*.dcm")), bundle.preprocessing)


def _aggregate(volume: Volume, bundle: Bundle, *answers: Any, far: tuple[int, ...] = ()) -> IllustratedResult:
    """`answers` are the slices' logits; slices `far` have features unlike training's."""
    features = np.repeat(bundle.statistics.mean[None], len(answers), axis=0)
    features[list(far)] = np.inf
    maps = np.zeros((len(answers), 4, 4, 4), np.float32)
    maps[:, :, 1, 2] = 1
    return aggregate(volume, EngineOutputs(np.stack(answers).astype(np.float32), features, maps), bundle)


def _bundle(bundle: Bundle, *, top_k: int = 1, probability: float = 0.5, in_distribution: float = 0.5) -> Bundle:
    thresholds = Thresholds(minimum_probability=probability, minimum_in_distribution=in_distribution)
    return replace(bundle, rule=TopSlices(1.0, Aggregation(top_k=top_k, top_fraction=0), thresholds))


def test_one_slice_of_tumour_decides(bundle: Bundle, volume: Volume) -> None:
    result = _aggregate(volume, _bundle(bundle), 9 * NOTUMOR, 5 * GLIOMA, 9 * NOTUMOR)
    assert (result.status, result.label) == (ResultStatus.CLASSIFIED, "glioma")
    assert [one.deciding for one in result.slices] == [False, True, False]
    assert result.probability == result.probabilities["glioma"] == result.slices[1].probabilities[0]
    assert result.reason is None
    assert result.key_image is not None
    assert result.key_image.slice_index == 1
    assert result.key_image.activation is not None
    assert result.key_image.activation.shape == result.key_image.image.shape
    assert result.key_image.activation.max() == pytest.approx(1, abs=0.05)


def test_the_mean_of_the_deciding_slices_is_reported(bundle: Bundle, volume: Volume) -> None:
    result = _aggregate(volume, _bundle(bundle, top_k=3), 9 * NOTUMOR, 9 * GLIOMA, 9 * GLIOMA)
    assert result.probability == pytest.approx(2 / 3, abs=0.01)
    assert sum(result.probabilities.values()) == pytest.approx(1)


def test_no_tumour_anywhere_is_no_tumour(bundle: Bundle, volume: Volume) -> None:
    result = _aggregate(volume, _bundle(bundle), *[9 * NOTUMOR] * 3)
    assert result.label == "notumor"


def test_no_tumour_may_need_more_than_a_tumour(bundle: Bundle, volume: Volume) -> None:
    thresholds = Thresholds(minimum_probability=0.5, minimum_in_distribution=0, minimum_no_neoplasm=0.9)
    careful = replace(bundle, rule=TopSlices(1.0, Aggregation(top_k=1, top_fraction=0), thresholds))
    hardly = math.log(3 * 0.7 / 0.3)  # a probability of 0.7 before temperature
    result = _aggregate(volume, careful, *[hardly * NOTUMOR] * 3)
    assert (result.status, result.reason) == (ResultStatus.NOT_ASSESSED, "too-uncertain")
    assert result.probabilities["notumor"] == pytest.approx(0.7)
    assert _aggregate(volume, careful, *[hardly * GLIOMA] * 3).label == "glioma"


def test_slices_out_of_distribution_have_no_say(bundle: Bundle, volume: Volume) -> None:
    result = _aggregate(volume, _bundle(bundle), 9 * NOTUMOR, 9 * GLIOMA, 9 * NOTUMOR, far=(1,))
    assert result.label == "notumor"
    assert [one.in_distribution for one in result.slices] == [True, False, True]


@pytest.mark.parametrize(("far", "in_distribution"), [((0, 1), 0.5), ((0, 1, 2), 0.0)])
def test_series_unlike_training_is_not_assessed(
    bundle: Bundle, volume: Volume, far: tuple[int, ...], in_distribution: float
) -> None:
    result = _aggregate(volume, _bundle(bundle, in_distribution=in_distribution), *[9 * GLIOMA] * 3, far=far)
    assert (result.status, result.reason) == (ResultStatus.NOT_ASSESSED, "out-of-distribution")
    assert (result.label, result.probability, result.probabilities) == (None, None, {})
    assert result.detail is not None
    assert result.detail.startswith(f"{3 - len(far)} of 3 slices")
    assert result.key_image is not None
    assert result.key_image.activation is None


def test_answer_that_is_not_sure_is_not_assessed(bundle: Bundle, volume: Volume) -> None:
    result = _aggregate(volume, _bundle(bundle, probability=0.9), *[1 * GLIOMA] * 3)
    assert (result.status, result.reason, result.label) == (ResultStatus.NOT_ASSESSED, "too-uncertain", None)
    assert result.probabilities["glioma"] == pytest.approx(np.e / (np.e + 3), rel=1e-4)
    assert result.key_image is not None
    assert result.key_image.activation is None


def test_answer_that_is_no_number_is_not_assessed(bundle: Bundle, volume: Volume) -> None:
    result = _aggregate(volume, _bundle(bundle, probability=0), *[np.nan * GLIOMA] * 3)
    assert result.status is ResultStatus.NOT_ASSESSED
