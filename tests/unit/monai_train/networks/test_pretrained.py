"""Public weights reach the right layers, RGB becomes grey exactly, and a wrong file is one clear error."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from monai_train.networks.classifier import Classifier
from monai_train.networks.pretrained import lineage, load_weights, read_weights
from monai_train.networks.registry import make_classifier
from worker.errors import StartError

MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def network(name: str, seed: int, classes: int = 4) -> Classifier:
    torch.manual_seed(seed)
    return make_classifier(name, classes).eval()


def public(name: str, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights under the names of the public files."""
    renamed = {}
    for key, value in weights.items():
        if name.startswith("densenet"):
            key = key.replace(".layers.", ".").replace("class_layers.out.", "classifier.")
        if name.startswith("efficientnet"):
            key = re.sub(r"_blocks\.\d+\.", "_blocks.", key)
        if name == "se-resnet50":
            key = re.sub(r"conv(\d)\.adn\.N\.", r"bn\1.", re.sub(r"conv(\d)\.conv\.", r"conv\1.", key))
            key = key.replace("project.conv", "downsample.0").replace("project.adn.N", "downsample.1")
            if ".fc." in key:
                key = key.replace("se_layer.fc.0", "se_module.fc1").replace("se_layer.fc.2", "se_module.fc2")
                value = value[:, :, None, None] if key.endswith("weight") else value
        renamed[key] = value
    return renamed


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "se-resnet50", "vgg16", "efficientnet-lite0"])
def test_public_names_reach_the_same_layers(name: str, tmp_path: Path) -> None:
    source, target = network(name, 0), network(name, 1)
    torch.save(public(name, source.net.state_dict()), tmp_path / "weights.pth")
    assert len(load_weights(target, tmp_path / "weights.pth")) == 64
    for key, value in source.net.state_dict().items():
        assert torch.equal(target.net.state_dict()[key], value), key


@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_grey_equals_rgb_of_a_normalised_grey_picture(name: str, tmp_path: Path) -> None:
    model = network(name, 0, classes=7)
    weights = dict(model.net.state_dict())
    first = next(iter(weights))
    torch.manual_seed(5)
    rgb = torch.randn(len(weights[first]), 3, *weights[first].shape[2:]) * 0.1
    weights[first] = rgb
    torch.save(weights, tmp_path / "rgb.pth")
    target = network(name, 1)
    load_weights(target, tmp_path / "rgb.pth")
    grey = torch.rand(2, 1, 40, 40)
    normalised = (grey.expand(-1, 3, -1, -1) - MEAN[:, None, None]) / DEVIATION[:, None, None]
    stem = nn.functional.conv2d(normalised, rgb)  # valid: away from the border
    ours = nn.functional.conv2d(grey, target.net.state_dict()[first])
    if name == "vgg16":
        bias = first.replace("weight", "bias")
        stem, ours = stem + weights[bias][:, None, None], ours + target.net.state_dict()[bias][:, None, None]
    else:
        stem = stem - weights["bn1.running_mean"][:, None, None]
        ours = ours - target.net.state_dict()["bn1.running_mean"][:, None, None]
    torch.testing.assert_close(ours, stem, rtol=1e-4, atol=1e-4)


def test_last_layer_of_other_classes_starts_at_zero(tmp_path: Path) -> None:
    source, target = network("resnet18", 0, classes=1000), network("resnet18", 1)
    save_file(source.net.state_dict(), tmp_path / "weights.safetensors")
    load_weights(target, tmp_path / "weights.safetensors")
    assert not target.net.state_dict()["fc.weight"].any()
    assert torch.equal(target.net.state_dict()["conv1.weight"], source.net.state_dict()["conv1.weight"])


def test_weights_of_another_network_name_the_fault(tmp_path: Path) -> None:
    torch.save(network("resnet34", 0).net.state_dict(), tmp_path / "resnet34.pth")
    with pytest.raises(StartError, match=r"layer1\.2\.conv1\.weight is unknown"):
        load_weights(network("resnet18", 1), tmp_path / "resnet34.pth")
    torch.save(network("resnet18", 0).net.state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(StartError, match=r"layer1\.2\.conv1\.weight is missing"):
        load_weights(network("resnet34", 1), tmp_path / "resnet18.pth")
    with pytest.raises(StartError, match=r"conv1\.weight has the shape \[64, 1, 7, 7\] instead of \[32, 1, 7, 7\]"):
        load_weights(network("resnet18-slim", 1), tmp_path / "resnet18.pth")


def test_file_that_holds_no_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot read"):
        read_weights(tmp_path / "absent.pth")
    for name in ("damaged.pth", "damaged.safetensors"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 nothing")
        with pytest.raises(StartError, match="not a complete file"):
            read_weights(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(StartError, match="no weights by name"):
        read_weights(tmp_path / "list.pth")


def test_a_checkpoint_tells_where_its_weights_came_from(tmp_path: Path) -> None:
    save_file({"fc.bias": torch.zeros(4)}, tmp_path / "first.safetensors")
    first = lineage(tmp_path / "first.safetensors")
    assert first == hashlib.sha256((tmp_path / "first.safetensors").read_bytes()).hexdigest()
    torch.save({"average": {}, "provenance": {"initial_weights_sha256": first}}, tmp_path / "second.pt")
    second = hashlib.sha256((tmp_path / "second.pt").read_bytes()).hexdigest()
    assert lineage(tmp_path / "second.pt") == f"{first} {second}"
    with pytest.raises(StartError, match="cannot read"):
        lineage(tmp_path / "absent.pt")
