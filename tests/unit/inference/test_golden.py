from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.tiny_bundle import copy_bundle, write_worker_json
from worker.errors import StartError
from worker.inference.bundle import Bundle, load_bundle
from worker.inference.engines import OpenVinoEngine, Precision, TorchEngine
from worker.inference.golden import check_golden


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1e-3), ("int8", 0.2)])
def test_openvino_agrees_with_the_golden_cases(bundle: Bundle, precision: Precision, allowed: float) -> None:
    assert check_golden(bundle, OpenVinoEngine(bundle, precision)) <= allowed


def test_torch_agrees_with_the_golden_cases(bundle: Bundle) -> None:
    assert check_golden(bundle, TorchEngine(bundle)) <= 1e-3


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1e-3), ("int8", 0.2)])
def test_golden_cases_of_format_two(bundle_two: Bundle, precision: Precision, allowed: float) -> None:
    assert check_golden(bundle_two, OpenVinoEngine(bundle_two, precision)) <= allowed


def test_torch_agrees_with_the_golden_cases_of_format_two(bundle_two: Bundle) -> None:
    assert check_golden(bundle_two, TorchEngine(bundle_two)) <= 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": [[0.0] * 13] * 3}, "the answer is|deviates by"),
        ({"logits": [[0.0] * 5] * 3}, "different classes or slices"),
        ({"in_distribution": [True]}, "different classes or slices"),
        ({"in_distribution": [False] * 3}, "the answer is out-of-distribution"),
        ({"answer": {"label": "notumor", "reason": None, "lesion_probability": 0.1}}, "expected notumor"),
        ({"tensor_sha256": "0" * 64}, "different tensor"),
        ({"extra": 1}, "is not valid"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_golden_case_of_format_two_that_fails_stops_the_start(
    bundle_two_folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    changed = copy_bundle(bundle_two_folder, tmp_path / "b")
    _case(changed, **change)
    with pytest.raises(StartError, match=message):
        check_golden(load_bundle(changed), OpenVinoEngine(load_bundle(changed), "fp32"))


def test_golden_cases_of_the_other_format_stop_the_start(
    bundle_two_folder: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    changed = copy_bundle(bundle_two_folder, tmp_path / "b")
    (changed / "golden/expected.json").write_bytes((bundle_folder / "golden/expected.json").read_bytes())
    write_worker_json(changed, format=2)
    with pytest.raises(StartError, match="another format"):
        check_golden(load_bundle(changed), OpenVinoEngine(load_bundle(changed), "fp32"))


def _case(folder: Path, **changes: Any) -> None:
    path = folder / "golden/expected.json"
    expected = json.loads(path.read_text())
    expected["cases"][0] |= changes
    path.write_text(json.dumps(expected))
    write_worker_json(folder, format=json.loads((folder / "worker.json").read_text())["format"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensor_sha256": "0" * 64}, "different tensor"),
        ({"probabilities": [[0.9, 0.1, 0, 0]] * 3}, "deviates by"),
        ({"probabilities": [[0.5, 0.5]]}, "different classes or slices"),
        ({"files": ["golden/head/9.dcm"]}, "missing"),
        ({"files": ["docs/README.md"]}, "not-dicom"),
        ({"extra": 1}, "is not valid"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_golden_case_that_fails_stops_the_start(
    bundle_folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    changed = copy_bundle(bundle_folder, tmp_path / "b")
    _case(changed, **change)
    bundle = load_bundle(changed)
    with pytest.raises(StartError, match=message):
        check_golden(bundle, OpenVinoEngine(bundle, "fp32"))
