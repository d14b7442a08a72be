"""The bundle that ships: whole, small, and safe on the heads of the demo."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_train.evaluation.evaluate import examine_bundle
from monai_train.evaluation.out_of_distribution import write_synthetic_images
from tests.testbed.phantom import head_series
from worker.inference.bundle import Bundle, default_bundle, load_bundle
from worker.inference.classify import classify
from worker.inference.engines import OpenVinoEngine
from worker.inference.golden import check_golden


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(default_bundle())


def test_bundle_is_whole_and_small(bundle: Bundle) -> None:
    for precision in ("int8", "fp32"):
        check_golden(bundle, OpenVinoEngine(bundle, precision))
    assert sum(path.stat().st_size for path in bundle.folder.rglob("*") if path.is_file()) < 30_000_000
    assert "Research use only" in (bundle.folder / "docs/README.md").read_text()


def test_a_mass_is_never_called_no_tumour(bundle: Bundle, tmp_path: Path) -> None:
    result = classify(head_series(tmp_path, mass=True), bundle, OpenVinoEngine(bundle))
    assert result.label != "notumor"


def test_a_healthy_head_is_never_called_a_tumour(bundle: Bundle, tmp_path: Path) -> None:
    result = classify(head_series(tmp_path, mass=False), bundle, OpenVinoEngine(bundle))
    assert result.label in (None, "notumor")


def test_pictures_that_are_no_brain_are_declined(bundle: Bundle, tmp_path: Path) -> None:
    measured, _ = examine_bundle(bundle.folder, tmp_path, write_synthetic_images(tmp_path), "int8")
    assert (~measured.slices.assessed).mean() >= 0.98
