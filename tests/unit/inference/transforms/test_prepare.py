"""Each bundle is prepared by the preprocessing that it has."""

from __future__ import annotations

import numpy as np

from worker.inference.bundle import Bundle
from worker.inference.preprocess import preprocess
from worker.inference.transforms.prepare import prepare


def test_a_bundle_of_format_1_has_the_workers_own_preprocessing(bundle: Bundle) -> None:
    files = sorted((bundle.folder / "golden/head").glob("*.dcm"))
    assert np.array_equal(prepare(files, bundle).tensor, preprocess(files, bundle.preprocessing).tensor)
