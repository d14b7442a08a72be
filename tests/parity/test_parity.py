"""Training, the reference engine and the served engine see and say the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_train.data.convert import convert
from monai_train.data.dataset import load_pictures, read_preprocessing
from monai_train.data.manifest import read_manifest
from tests.testbed.phantom import Grid, slice_pixels
from worker.inference.bundle import Bundle, default_bundle, load_bundle
from worker.inference.engines import OpenVinoEngine, TorchEngine
from worker.inference.golden import check_golden, output_probabilities
from worker.inference.preprocess import preprocess


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(default_bundle())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted PNGs of the template: a colour one, a grey one, one of another size."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, mass in (("notumor", False), ("glioma", True)):
        (folder / "src" / name).mkdir(parents=True)
        for index, pixels in enumerate(slice_pixels(Grid(), mass=mass)):
            if index % 6 == 2:
                grey = Image.fromarray((pixels / pixels.max() * 255).astype(np.uint8))
                grey.convert("RGB").resize((300 + index, 280)).save(folder / "src" / name / f"{index}.png")
    convert(folder / "src", folder / "out")
    return folder / "out"


def test_training_and_the_worker_see_the_same_tensor(pictures: Path, bundle: Bundle) -> None:
    rows = read_manifest(pictures)
    trained_on = load_pictures(pictures, rows, read_preprocessing()).pixels.numpy().astype(np.float32) / np.float32(255)
    served = np.concatenate([preprocess([pictures / row.path], bundle.preprocessing).tensor for row in rows])
    assert len(rows) == 8
    np.testing.assert_array_equal(trained_on, served)


def test_the_bundle_carries_training_s_preprocessing_byte_for_byte(bundle: Bundle) -> None:
    assert bundle.preprocessing == read_preprocessing()


def _golden_tensors(bundle: Bundle) -> list[np.ndarray]:
    cases = json.loads((bundle.folder / "golden/expected.json").read_text())["cases"]
    return [preprocess([bundle.folder / name for name in case["files"]], bundle.preprocessing).tensor for case in cases]


def test_openvino_agrees_with_torch_on_the_golden_cases_within_1e_3(bundle: Bundle) -> None:
    reference, served = TorchEngine(bundle), OpenVinoEngine(bundle, "fp32")
    worst = 0.0
    for tensor in _golden_tensors(bundle):
        one, other = reference.run(tensor), served.run(tensor)
        worst = max(worst, float(np.abs(one.logits - other.logits).max()))
        np.testing.assert_allclose(
            output_probabilities(bundle, one.logits), output_probabilities(bundle, other.logits), atol=1e-3
        )
        np.testing.assert_allclose(one.maps, other.maps, atol=1e-2 * float(np.abs(one.maps).max()))
    assert worst < 1e-3


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_the_golden_cases_hold_on_this_machine(bundle: Bundle, precision: str) -> None:
    check_golden(bundle, OpenVinoEngine(bundle, precision))  # type: ignore[arg-type]
