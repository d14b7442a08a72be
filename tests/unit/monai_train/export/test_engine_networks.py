"""The networks of a bundle compute what the torch network computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from safetensors.torch import load_file

from monai_train.export.engine_networks import image_tensor, openvino_network, write_weights
from monai_train.networks.classifier import Classifier
from monai_train.networks.registry import make_classifier
from worker.inference.bundle import load_bundle
from worker.inference.engines import OpenVinoEngine, TorchEngine


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    return make_classifier("resnet18-slim", 4).eval()


def test_weights_are_halves_in_the_file_and_rounded_to_them_in_the_network(model: Classifier, tmp_path: Path) -> None:
    write_weights(model, tmp_path / "model.safetensors")
    stored = load_file(tmp_path / "model.safetensors")
    state = model.net.state_dict()
    assert stored.keys() == state.keys()
    for name, value in stored.items():
        assert value.dtype == (torch.float16 if value.ndim > 1 else state[name].dtype), name
        assert torch.equal(value.to(state[name].dtype), state[name]), name


def test_openvino_has_the_outputs_of_torch_for_any_number_of_pictures(model: Classifier) -> None:
    compiled = openvino.Core().compile_model(openvino_network(model, 64), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for n in (1, 3):
        pixels = (torch.rand(n, 1, 64, 64, generator=torch.Generator().manual_seed(n)) * 255).to(torch.uint8)
        outputs = compiled({"image": image_tensor(pixels)})
        with torch.no_grad():
            expected = model(pixels.float() / 255)
        for name in ("logits", "features", "maps"):
            assert outputs[name] == pytest.approx(getattr(expected, name).numpy(), abs=1e-3), name


def test_pictures_are_scaled_to_one() -> None:
    tensor = image_tensor(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8))
    assert tensor.dtype == np.float32
    assert tensor.ravel().tolist() == pytest.approx([0, 0.2, 1])


def test_int8_is_smaller_and_close_to_torch(exported: Path) -> None:
    sizes = [(exported / "models" / name).stat().st_size for name in ("model.bin", "model_fp32.bin")]
    assert sizes[0] < sizes[1] / 2
    bundle = load_bundle(exported)
    size = bundle.preprocessing.size
    tensor = np.random.default_rng(0).random((2, 1, size, size), np.float32)
    int8, reference = OpenVinoEngine(bundle, "int8").run(tensor), TorchEngine(bundle).run(tensor)
    assert np.corrcoef(int8.features.ravel(), reference.features.ravel())[0, 1] > 0.95
