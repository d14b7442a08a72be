"""A run becomes a bundle that the worker accepts, whose engines agree and whose card holds what was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from monai_train.cli.app import app
from monai_train.data.labels import Classes
from monai_train.data.manifest import read_manifest
from monai_train.evaluation.evaluate import Measurement, measure_bundle
from monai_train.evaluation.metrics import Predictions
from monai_train.export.export import ENGINE_TOLERANCE, _require_fine_int8, export
from worker.errors import StartError
from worker.inference.aggregate import slice_probabilities
from worker.inference.bundle import load_bundle
from worker.inference.engines import OpenVinoEngine, TorchEngine
from worker.inference.golden import check_golden
from worker.inference.preprocess import preprocess


def test_worker_accepts_it_and_golden_cases_hold(exported: Path) -> None:
    bundle = load_bundle(exported)
    assert bundle.identity.name == "tiny-export"
    for precision in ("int8", "fp32"):
        check_golden(bundle, OpenVinoEngine(bundle, precision))


def test_engines_agree_on_the_golden_cases(exported: Path) -> None:
    bundle = load_bundle(exported)
    for case in ("plain", "ring"):
        tensor = preprocess(sorted((exported / "golden" / case).glob("*.dcm")), bundle.preprocessing).tensor
        torch_outputs, openvino_outputs = TorchEngine(bundle).run(tensor), OpenVinoEngine(bundle, "fp32").run(tensor)
        a, b = (slice_probabilities(out.logits, bundle.temperature) for out in (torch_outputs, openvino_outputs))
        assert np.abs(a - b).max() <= ENGINE_TOLERANCE
        assert torch_outputs.maps.mean(axis=(2, 3)) == pytest.approx(torch_outputs.logits, abs=1e-3)


def test_a_folder_that_exists_is_not_overwritten(tiny_run: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="exists already"):
        export(tiny_run, tiny_data, tmp_path, "x", "0")


def test_nothing_but_the_bundle_is_left_beside_it(exported: Path) -> None:
    assert [path.name for path in exported.parent.iterdir()] == ["bundle"]


def test_help_gives_examples() -> None:
    for command in ("train", "evaluate", "export", "evaluate-default"):
        answer = CliRunner().invoke(app, [command, "--help"])
        assert f"monai-train {command}" in answer.output


def test_a_run_that_learned_the_sequence_becomes_a_bundle_of_format_2(
    exported_by_sequence: Path, sequences_data: Path
) -> None:
    bundle = load_bundle(exported_by_sequence)
    assert bundle.decision.layout.sequences == ("T1", "T1C", "T2", "FLAIR", "other")
    rules = bundle.decision.rules
    assert rules["T1C"].supported
    assert not rules["FLAIR"].supported  # there is none in the data
    check_golden(bundle, OpenVinoEngine(bundle, "int8"))
    assert "| T1C | axial, coronal, sagittal | sigmoid(" in (exported_by_sequence / "docs/README.md").read_text()
    rows = [row for row in read_manifest(sequences_data) if row.dataset == "main"]
    measured = measure_bundle(exported_by_sequence, sequences_data, rows)
    figures = measured.to_json()
    assert figures["binary"]["sensitivity"] > 0.9
    assert figures["binary"]["specificity"] > 0.9
    assert figures["patient_binary"]["n_assessed"] > 0.8 * len(measured.patients.truth)


@pytest.mark.parametrize(
    ("pictures", "lost", "refused"), [(16, 2, False), (16, 8, True), (4000, 8, False), (400, 8, True)]
)
def test_int8_may_lose_what_chance_explains_and_half_a_point(pictures: int, lost: int, refused: bool) -> None:
    """Two of 16 pictures are 12.5 points and say nothing; eight of 400 are 2 points, and eight of 4,000 are 0.2."""
    truth = np.arange(pictures) % 2
    answered = truth.copy()
    answered[:lost] = 1 - truth[:lost]
    full, quantised = (_measured(truth, answers) for answers in (truth, answered))
    if refused:
        with pytest.raises(StartError, match="int8 loses"):
            _require_fine_int8(full, quantised)
    else:
        _require_fine_int8(full, quantised)
        _require_fine_int8(quantised, full)


def _measured(truth: np.ndarray, answered: np.ndarray) -> Measurement:
    classes = Classes(("glioma", "notumor"), no_tumour=1)
    groups = np.array([str(number) for number in range(len(truth))])
    every = Predictions(classes, truth, np.eye(2, dtype=np.float32)[answered], groups, np.ones(len(truth), bool))
    return Measurement(every, every)
