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


def _case(folder: Path, **changes: Any) -> None:
    path = folder / "golden/expected.json"
    expected = json.loads(path.read_text())
    expected["cases"][0] |= changes
    path.write_text(json.dumps(expected))
    write_worker_json(folder)


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
