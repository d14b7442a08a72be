"""A bundle may hold an EfficientNet: torch and OpenVINO give the same answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_weights

from monai_train.export.engine_networks import openvino_network
from monai_train.networks.registry import find_served, make_classifier
from tests.testbed.tiny_bundle import copy_bundle, write_worker_json
from worker.inference.bundle import load_bundle
from worker.inference.engines import OpenVinoEngine, TorchEngine


@pytest.mark.parametrize("name", ["efficientnet-b0", "efficientnet-lite0"])
def test_worker_serves_it_with_equal_engines(name: str, bundle_folder: Path, tmp_path: Path) -> None:
    folder = copy_bundle(bundle_folder, tmp_path / "bundle")
    torch.manual_seed(0)
    model = make_classifier(name, 4)
    model.train()
    with torch.no_grad():
        model(torch.rand(4, 1, 64, 64))  # running statistics that are not 0 and 1
    model.eval()
    save_weights(model.net.state_dict(), folder / "models/model.safetensors")
    converted = openvino_network(model, 64)
    for file in ("model_fp32.xml", "model.xml"):
        openvino.save_model(converted, folder / "models" / file, compress_to_fp16=False)
    size = 224 if name == "efficientnet-lite0" else 1280  # channel statistics of a stage, or the pooled features
    statistics = {"mean": np.zeros(size), "components": np.eye(1, size), "scale": np.ones(1)}
    save_file({key: one.astype(np.float32) for key, one in statistics.items()}, folder / "models/features.safetensors")
    inference = json.loads((folder / "configs/inference.json").read_text())
    inference["network_def"] = find_served(name).definition(4)
    (folder / "configs/inference.json").write_text(json.dumps(inference))
    write_worker_json(folder)
    bundle = load_bundle(folder)
    tensor = np.random.default_rng(0).random((3, 1, 64, 64), np.float32)
    ours, served = TorchEngine(bundle).run(tensor), OpenVinoEngine(bundle, "fp32").run(tensor)
    assert ours.logits == pytest.approx(model(torch.from_numpy(tensor)).logits.detach().numpy(), abs=1e-5)
    for part in ("logits", "features", "maps"):
        np.testing.assert_allclose(getattr(served, part), getattr(ours, part), rtol=1e-3, atol=1e-4)
