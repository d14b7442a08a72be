from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.testbed.images import image, save
from worker.errors import NotAssessable
from worker.inference.bundle import Bundle
from worker.inference.classify import classify
from worker.inference.engines import OpenVinoEngine
from worker.results import ResultStatus


def test_series_is_classified_from_its_files(bundle: Bundle, bundle_folder: Path) -> None:
    paths = sorted((bundle_folder / "golden/head").glob("*.dcm"))
    result = classify(paths[::-1], bundle, OpenVinoEngine(bundle))
    assert result.status is ResultStatus.CLASSIFIED
    assert result.label in result.probabilities
    assert [one.position_mm for one in result.slices] == [0, 6, 12]
    assert result.key_image is not None
    assert result.key_image.image.shape == (96, 80)


@pytest.mark.parametrize(
    ("reason", "accepted", "attributes"),
    [
        ("wrong-modality", {}, {"Modality": "CT"}),
        ("wrong-modality", {}, {"Modality": ""}),
        ("too-few-slices", {"minimum_slices": 2}, {}),
        ("image-too-small", {"minimum_rows": 33}, {}),
        ("image-too-large", {"maximum_pixels": 32 * 40 - 1}, {}),
    ],
)
def test_what_the_bundle_does_not_accept_is_not_asked(
    bundle: Bundle, tmp_path: Path, reason: str, accepted: dict[str, Any], attributes: dict[str, Any]
) -> None:
    pixels = np.random.default_rng(6).integers(0, 999, (32, 40), np.uint16)
    path = save(image(pixels, **attributes), tmp_path / "a.dcm")
    strict = replace(bundle, accepted_input=bundle.accepted_input.model_copy(update=accepted))
    with pytest.raises(NotAssessable) as raised:
        classify([path], strict, OpenVinoEngine(bundle))
    assert raised.value.reason == reason
