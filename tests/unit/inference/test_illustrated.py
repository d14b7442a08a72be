from __future__ import annotations

from dataclasses import replace

from tests.testbed import results
from worker.errors import NotAssessable
from worker.inference.illustrated import IllustratedResult, not_assessed
from worker.results import ResultStatus, SeriesResult


def test_refusal_becomes_a_result_with_its_reason() -> None:
    result = not_assessed(NotAssessable("mixed-sizes", "The slices have different sizes."))
    assert (result.status, result.reason, result.detail) == (
        ResultStatus.NOT_ASSESSED, "mixed-sizes", "The slices have different sizes.",
    )  # fmt: skip
    assert (result.label, result.probability, result.probabilities, result.slices) == (None, None, {}, ())
    assert result.key_image is None


def test_changed_result_keeps_its_key_image() -> None:
    result = results.classified(results.source_headers())
    changed = replace(result, missing="2 of the 10 images")
    assert isinstance(changed, IllustratedResult)
    assert isinstance(changed, SeriesResult)
    assert changed.key_image is result.key_image
