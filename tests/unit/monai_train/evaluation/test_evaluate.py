"""What is measured of a bundle is what the worker answers; runs and ensembles of runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from monai_train.cli.app import app
from monai_train.data.manifest import read_manifest
from monai_train.data.patients import SplitRole
from monai_train.evaluation.evaluate import examine_runs, fit_temperature, measure_bundle, run_split, select_pictures
from monai_train.training.train import train
from tests.testbed.converted import CLASSES, make_converted
from tests.testbed.tiny_bundle import make_tiny_bundle
from tests.unit.monai_train.conftest import TINY
from worker.errors import StartError
from worker.inference.aggregate import slice_probabilities
from worker.inference.bundle import load_bundle
from worker.inference.classify import classify
from worker.inference.engines import OpenVinoEngine
from worker.results import ResultStatus


def test_temperature_undoes_a_known_scale() -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(4000, 4)) * 2
    probabilities = slice_probabilities(logits.astype(np.float32), 1.0)
    labels = [int(generator.choice(4, p=p / p.sum())) for p in probabilities.astype(float)]
    assert fit_temperature((logits * 3).astype(np.float32), labels, CLASSES) == pytest.approx(3, rel=0.1)


def test_temperature_of_tumours_of_unknown_kind_is_that_of_tumour_or_none() -> None:
    generator = np.random.default_rng(2)
    logits = generator.normal(size=(4000, 4)).astype(np.float32) * 2
    probabilities = slice_probabilities(logits, 1.0).astype(float)
    labels = [3 if generator.random() < p[3] else CLASSES.any_tumour for p in probabilities]
    assert fit_temperature(logits * 3, labels, CLASSES) == pytest.approx(3, rel=0.15)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle"), thresholds={
        "minimum_probability": 0.4, "minimum_in_distribution": 0.0
    })  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_converted(tmp_path_factory.mktemp("converted"), patients=2, external=2)


def test_measurement_says_what_the_worker_says(tiny: Path, data: Path) -> None:
    rows = read_manifest(data)
    measured = measure_bundle(tiny, data, rows, threads=1)
    bundle = load_bundle(tiny)
    engine = OpenVinoEngine(bundle)
    for index, row in enumerate(rows):
        result = classify([data / row.path], bundle, engine)
        assert measured.slices.assessed[index] == (result.status is ResultStatus.CLASSIFIED)
        values = [result.probabilities[name] for name in CLASSES.names]
        assert measured.slices.probabilities[index] == pytest.approx(values, abs=1e-5)
    assert len(measured.patients.truth) == len({(row.patient_group, row.label) for row in rows})


def test_command_writes_the_fixed_interface(tiny: Path, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    answer = CliRunner().invoke(
        app, ["evaluate", "--bundle", str(tiny), "--data", str(data), "--json", str(file)], catch_exceptions=False
    )
    assert answer.exit_code == 0
    report = json.loads(file.read_text())
    assert report["labels"] == [*CLASSES.names, "tumor"]
    assert report["n"] == 4 * 2 * 2 + 4
    for level in ("slice", "patient"):
        keys = {"n", "accuracy", "balanced_accuracy", "balanced_accuracy_ci", "per_class", "confusion_matrix", "ece"}
        assert keys <= report[level].keys()
    assert isinstance(report["not_assessed"], int)
    assert {"sensitivity", "specificity", "sensitivity_ci", "specificity_ci", "n"} <= report["binary"].keys()


def test_a_file_that_cannot_be_read_is_counted(tiny: Path, tmp_path: Path) -> None:
    data = make_converted(tmp_path / "data", patients=1, external=0)
    rows = read_manifest(data)
    (data / rows[0].path).write_bytes(b"not DICOM")
    report = measure_bundle(tiny, data, rows, threads=1).to_json()
    assert sum(report["unreadable"].values()) == 1
    assert report["not_assessed"] >= 1


def test_usage_faults_are_one_line(tiny: Path, data: Path) -> None:
    with pytest.raises(StartError, match="either"):
        CliRunner().invoke(app, ["evaluate", "--data", str(data)], catch_exceptions=False)
    with pytest.raises(StartError, match="split"):
        CliRunner().invoke(
            app,
            ["evaluate", "--data", str(data), "--bundle", str(tiny), "--role", "test"],
            catch_exceptions=False,
        )


def test_several_runs_are_an_ensemble(official_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    rows = read_manifest(official_data)
    chosen = select_pictures(rows, run_split(tiny_run).roles(rows), SplitRole.TEST, deduplicated=True)
    alone = examine_runs([tiny_run], official_data, rows, chosen)[0]
    twice = examine_runs([tiny_run, tiny_run], official_data, rows, chosen)[0]
    assert twice.slices.probabilities == pytest.approx(alone.slices.probabilities, abs=1e-5)
    weak = tmp_path / "weak"
    train(official_data, weak, TINY.model_copy(update={"epochs": 1, "samples_per_epoch": 16, "seed": 3}))
    mixed = examine_runs([tiny_run, weak], official_data, rows, chosen)[0]
    # In logarithms: both may be sure of the same class.
    logarithms = [np.log(measurement.slices.probabilities + 1e-12) for measurement in (mixed, alone)]
    assert abs(logarithms[0] - logarithms[1]).max() > 0.01


def test_an_ensemble_needs_one_split(official_data: Path, tiny_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    train(official_data, other, TINY.model_copy(update={"epochs": 1, "samples_per_epoch": 16, "test_share": 0.4}))
    with pytest.raises(StartError, match="same patients"):
        examine_runs([tiny_run, other], official_data, read_manifest(official_data), [0])


def test_flip_gives_a_mirrored_picture_the_same_answer(official_data: Path, tiny_run: Path) -> None:
    import torch

    from monai_train.data.dataset import load_pictures, read_preprocessing
    from monai_train.evaluation.evaluate import model_outputs
    from monai_train.networks.registry import make_classifier
    from monai_train.training.checkpoint import BEST, read_checkpoint

    model = make_classifier(TINY.network, len(CLASSES))
    model.load_state_dict(read_checkpoint(tiny_run / BEST).average)
    pixels = load_pictures(official_data, read_manifest(official_data), read_preprocessing()).pixels[:6]
    upright = model_outputs(model, pixels, flip=True)
    mirrored = model_outputs(model, torch.flip(pixels, [-1]), flip=True)
    assert mirrored.logits == pytest.approx(upright.logits, abs=1e-4)
    assert mirrored.maps[..., ::-1] == pytest.approx(upright.maps, abs=1e-4)
    assert abs(model_outputs(model, pixels).logits - upright.logits).max() > 1e-3
