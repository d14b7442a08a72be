"""Every named network gives logits, features and exact activation maps; a new one is known by its one class."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from monai_train.data.manifest import read_manifest
from monai_train.data.patients import SplitRole
from monai_train.evaluation.evaluate import examine_runs, measure_bundle, read_split, run_split, select_pictures
from monai_train.export.export import export
from monai_train.networks.classifier import ServedNetwork
from monai_train.networks.pretrained import load_weights
from monai_train.networks.registry import NETWORKS, find_network, find_served, make_classifier, register
from monai_train.training.checkpoint import BEST, read_checkpoint
from monai_train.training.train import train
from tests.testbed.tiny_network import TinyNet, TinyNetwork
from tests.unit.monai_train.conftest import TINY
from worker.errors import StartError
from worker.inference import bundle as bundles
from worker.inference.bundle import NETWORK_TARGETS, load_bundle

SERVED = sorted(name for name, network in NETWORKS.items() if isinstance(network, ServedNetwork))


@pytest.mark.parametrize("name", SERVED)
def test_maps_average_to_the_logits(name: str) -> None:
    torch.manual_seed(0)
    model = make_classifier(name, 4).eval()
    image = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        outputs = model(image)
        plain = model.net(image)
    torch.testing.assert_close(outputs.logits, plain, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(outputs.maps.mean(dim=(2, 3)), outputs.logits, rtol=1e-3, atol=1e-3)
    assert outputs.features.shape[0] == 2
    assert find_served(name).definition(4)["_target_"] in NETWORK_TARGETS


def test_unknown_network_names_the_nearest() -> None:
    with pytest.raises(StartError, match="resnet18"):
        find_network("resnet-18")


def test_no_name_is_taken_twice() -> None:
    with pytest.raises(ValueError, match="two networks are called 'resnet18'"):
        register(NETWORKS["resnet18"])


@pytest.fixture
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A network that is registered by its class, and in the worker's allow-list."""
    for name in ("NETWORK_TARGETS", "ALLOWED_TARGETS"):
        monkeypatch.setattr(bundles, name, getattr(bundles, name) | {"tests.testbed.tiny_network.TinyNet"})
    register(TinyNetwork())
    yield "tiny"
    del NETWORKS["tiny"]


def test_new_network_is_trained_evaluated_and_exported(tiny_network: str, tiny_data: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "bundle"
    config = TINY.model_copy(update={"network": tiny_network, "learning_rate": 1e-2})
    train(tiny_data, run, config)
    best = read_checkpoint(run / BEST)
    assert isinstance(best.classifier().net, TinyNet)
    assert best.best >= 0.9

    rows = read_manifest(tiny_data)
    test = select_pictures(rows, run_split(run).roles(rows), SplitRole.TEST, deduplicated=True)
    by_torch = examine_runs([run], tiny_data, rows, test)[0].to_json()["slice"]
    assert by_torch["balanced_accuracy"] >= 0.9

    export(run, tiny_data, out, "tiny-model", "1.0.0")
    bundle = load_bundle(out)
    assert bundle.identity.family == tiny_network
    assert bundle.network == {"_target_": "tests.testbed.tiny_network.TinyNet", "width": 8, "classes": 4}
    limits = json.loads((out / "worker.json").read_text())["out_of_distribution"]
    assert limits["maximum_distance"] > 0
    frozen = select_pictures(rows, read_split(out).roles(rows), SplitRole.TEST, deduplicated=True)
    assert frozen == test
    served = measure_bundle(out, tiny_data, [rows[i] for i in test]).to_json()["slice"]
    assert served["balanced_accuracy"] >= 0.9


def test_new_network_starts_from_public_weights(tiny_network: str, tmp_path: Path) -> None:
    source, target = make_classifier(tiny_network, 7), make_classifier(tiny_network, 4)
    public = {key.replace("stages.", "backbone."): value for key, value in source.net.state_dict().items()}
    torch.save({**public, "answer.extra": torch.zeros(1)}, tmp_path / "public.pth")
    load_weights(target, tmp_path / "public.pth")
    assert torch.equal(target.net.stages[0].weight, source.net.stages[0].weight)
    assert not target.head.weight.any()
