"""A run becomes a bundle that the worker accepts, whose engines agree and whose card holds what was measured."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from monai_train.cli.app import app
from monai_train.data.dataset import PREPROCESSING_FILE
from monai_train.evaluation.evaluate import measure_split
from monai_train.export.export import (
    ENGINE_TOLERANCE,
    _averaged,
    _read_run,
    export,
    feature_statistics,
    limits_for,
)
from monai_train.export.golden import write_golden_series
from monai_train.export.install import install_default
from monai_train.export.model_card import figures_markdown
from monai_train.training.checkpoint import BEST, read_checkpoint, write_checkpoint
from tests.testbed.converted import make_converted
from tests.unit.monai_train.conftest import TINY
from worker.errors import StartError
from worker.inference.aggregate import distance_and_residual, slice_probabilities
from worker.inference.bundle import load_bundle
from worker.inference.engines import OpenVinoEngine, TorchEngine
from worker.inference.golden import check_golden
from worker.inference.preprocess import preprocess


@pytest.fixture(scope="session")
def exported(tiny_run: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tiny_run, tiny_data, tmp_path_factory.mktemp("exported") / "bundle", "tiny-export", "0.0.1")


def test_worker_accepts_it_and_golden_cases_hold(exported: Path) -> None:
    bundle = load_bundle(exported)
    assert bundle.identity.name == "tiny-export"
    for precision in ("int8", "fp32"):
        check_golden(bundle, OpenVinoEngine(bundle, precision))


def test_preprocessing_is_copied_byte_for_byte(exported: Path) -> None:
    assert PREPROCESSING_FILE.read_text().strip() in (exported / "configs/inference.json").read_text()


def test_engines_agree_on_the_golden_cases(exported: Path) -> None:
    bundle = load_bundle(exported)
    for case in ("plain", "ring"):
        tensor = preprocess(sorted((exported / "golden" / case).glob("*.dcm")), bundle.preprocessing).tensor
        torch_outputs, openvino_outputs = TorchEngine(bundle).run(tensor), OpenVinoEngine(bundle, "fp32").run(tensor)
        a, b = (slice_probabilities(one.logits, bundle.temperature) for one in (torch_outputs, openvino_outputs))
        assert np.abs(a - b).max() <= ENGINE_TOLERANCE
        assert torch_outputs.maps.mean(axis=(2, 3)) == pytest.approx(torch_outputs.logits, abs=1e-3)


def test_card_holds_what_is_measured_again(exported: Path, tiny_data: Path) -> None:
    card = (exported / "docs/README.md").read_text()
    assert figures_markdown(measure_split(exported, tiny_data)) in card
    assert "\n| figure " in card
    assert not set(card) & set("┃│┏└")  # tables are Markdown
    assert "Research use only" in card


def test_thresholds_were_fitted(exported: Path) -> None:
    bundle = load_bundle(exported)
    assert bundle.temperature != 1.0
    assert 0.5 <= bundle.thresholds.minimum_probability < 1
    assert bundle.out_of_distribution.maximum_distance < 1e6
    assert bundle.out_of_distribution.maximum_residual < 1e6


def test_other_data_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    other = make_converted(tmp_path / "other", patients=3, external=0)
    with pytest.raises(StartError, match="does not hold the data"):
        export(tiny_run, other, tmp_path / "bundle", "x", "0")


def test_default_is_replaced_only_by_one_that_is_not_worse(exported: Path, tiny_data: Path, tmp_path: Path) -> None:
    bundles = tmp_path / "bundles"
    first = install_default(exported, tiny_data, bundles)
    assert load_bundle(first).identity.sha256 == load_bundle(exported).identity.sha256
    assert install_default(exported, tiny_data, bundles) == first  # as good as itself
    assert [path.name for path in bundles.iterdir()] == ["tiny-export"]
    worse = tmp_path / "worse"
    shutil.copytree(exported, worse)
    _turn_classes_round(worse)
    with pytest.raises(StartError, match="the present default has"):
        install_default(worse, tiny_data, bundles)
    assert load_bundle(first).identity.sha256 == load_bundle(exported).identity.sha256


def _turn_classes_round(bundle: Path) -> None:
    """The int8 network replaced by one that has the class scores in another order, hashes and all."""
    import hashlib

    import openvino
    from openvino import opset13

    model = openvino.Core().read_model(exported_model := bundle / "models/model.xml")
    logits = next(result for result in model.get_results() if "logits" in result.output(0).get_names())
    source = logits.input_value(0)
    order = opset13.constant(np.array([1, 2, 3, 0]))
    turned = opset13.gather(source, order, opset13.constant(1))
    logits.input(0).replace_source_output(turned.output(0))
    source.get_tensor().set_names(set())
    turned.output(0).get_tensor().set_names({"logits"})
    model.validate_nodes_and_infer_types()
    openvino.save_model(model, bundle / "turned.xml")
    (bundle / "turned.xml").rename(exported_model)
    (bundle / "turned.bin").rename(exported_model.with_suffix(".bin"))
    described = json.loads((bundle / "worker.json").read_text())
    for name in ("models/model.xml", "models/model.bin"):
        described["files"][name] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    (bundle / "worker.json").write_text(json.dumps(described))


def test_limits_accept_the_share_they_were_asked_for() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(500, 40)).astype(np.float32)
    distance, residual = distance_and_residual(features, feature_statistics(features, 8))
    limits = limits_for(distance, residual, 0.9)
    accepted = np.mean((distance <= limits[0]) & (residual <= limits[1]))
    assert 0.9 <= accepted < 0.93


def test_mean_of_runs_from_one_beginning_is_exported(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    """The same weights twice, moved apart by a little: their mean is the run itself, with its norms measured again."""
    content = read_checkpoint(tiny_run / BEST)
    weight = content.average["net.fc.weight"]
    step = 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    for name, sign in (("a", 1), ("b", -1)):
        moved = {**content.average, "net.fc.weight": weight + sign * step}
        (tmp_path / name).mkdir()
        write_checkpoint(tmp_path / name / BEST, replace(content, average=moved))
    parts = _read_run(tmp_path / "a", tiny_data)
    merged = _averaged(parts, tmp_path / "a", [tmp_path / "b"], Console(quiet=True))
    assert merged.provenance["averaged_runs"] == "2"
    torch.testing.assert_close(merged.model.net.fc.weight.detach(), weight)
    assert not torch.equal(merged.model.net.bn1.running_mean, content.average["net.bn1.running_mean"])
    assert not merged.model.training


def test_mean_that_is_worse_and_runs_that_do_not_fit_are_refused(
    tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    content = read_checkpoint(tiny_run / BEST)
    opposite = {key: -one if one.ndim > 1 else one for key, one in content.average.items()}  # the mean is nothing
    for name, weights, network in (("far", opposite, "resnet18-slim"), ("other", opposite, "resnet18")):
        (tmp_path / name).mkdir()
        config = TINY.model_copy(update={"network": network})
        write_checkpoint(tmp_path / name / BEST, replace(content, average=weights, config=config))
    parts = _read_run(tiny_run, tiny_data)
    with pytest.raises(StartError, match=r"mean of the weights reaches 0\.\d+"):
        _averaged(parts, tiny_run, [tmp_path / "far"], Console(quiet=True))
    with pytest.raises(StartError, match="another network or split"):
        _averaged(parts, tiny_run, [tmp_path / "other"], Console(quiet=True))
    answer = CliRunner().invoke(app, ["export", "--run", "a", "--run", "b", "--data", "c", "--out", "d"])
    assert isinstance(answer.exception, StartError)
    assert "--average" in answer.exception.detail


def test_golden_series_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_golden_series(tmp_path / folder)
    for path in sorted((tmp_path / "a").rglob("*.dcm")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_help_gives_examples() -> None:
    for command in ("train", "evaluate", "export", "evaluate-default"):
        answer = CliRunner().invoke(app, [command, "--help"])
        assert f"monai-train {command}" in answer.output
