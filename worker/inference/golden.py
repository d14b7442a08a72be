"""Golden cases: the exporter's measurements, repeated on this host before a model serves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.errors import NotAssessable, StartError
from worker.inference.aggregate import slice_probabilities
from worker.inference.bundle import Bundle
from worker.inference.engines import Engine, Precision
from worker.inference.preprocess import preprocess
from worker.pixels.arrays import FloatArray


class _Case(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    files: tuple[str, ...] = Field(min_length=1)
    tensor_sha256: str
    probabilities: tuple[tuple[float, ...], ...]


class _Expected(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    tolerance: dict[Precision, float]
    cases: tuple[_Case, ...] = Field(min_length=1)


def golden_case(bundle: Bundle, engine: Engine, name: str, files: Sequence[str]) -> dict[str, Any]:
    """Measure a case for golden/expected.json; `files` are relative to the bundle's folder. Raises NotAssessable."""
    sha256, probabilities = _measured(bundle, engine, files)
    return {"name": name, "files": list(files), "tensor_sha256": sha256, "probabilities": probabilities.tolist()}


def check_golden(bundle: Bundle, engine: Engine) -> float:
    """Run every golden case and return the largest deviation of a probability.

    Raises StartError bundle-golden when it exceeds the tolerance.
    """
    try:
        expected = _Expected.model_validate(json.loads((bundle.folder / "golden/expected.json").read_bytes()))
        tolerance = expected.tolerance[engine.precision]
    except (ValidationError, KeyError):
        raise StartError("bundle-corrupt", "golden/expected.json of the model bundle is not valid") from None
    worst = 0.0
    for case in expected.cases:
        worst = max(worst, _deviation(bundle, engine, case, tolerance))
    return worst


def _deviation(bundle: Bundle, engine: Engine, case: _Case, tolerance: float) -> float:
    if any(not (bundle.folder / name).is_file() for name in case.files):
        raise StartError("bundle-corrupt", f"a file of golden case {case.name!r} is missing")
    try:
        sha256, probabilities = _measured(bundle, engine, case.files)
    except NotAssessable as refusal:
        raise StartError("bundle-golden", f"golden case {case.name!r} cannot be read: {refusal.reason}") from None
    if sha256 != case.tensor_sha256:
        raise StartError("bundle-golden", f"golden case {case.name!r}: preprocessing gives a different tensor")
    expected = np.array(case.probabilities, np.float32)
    if expected.shape != probabilities.shape:
        raise StartError("bundle-golden", f"golden case {case.name!r}: the network gives different classes or slices")
    deviation = float(np.abs(probabilities - expected).max())
    if not deviation <= tolerance:
        detail = f"a probability deviates by {deviation:.4f}, allowed is {tolerance:g} ({engine.precision})"
        raise StartError("bundle-golden", f"golden case {case.name!r}: {detail}")
    return deviation


def _measured(bundle: Bundle, engine: Engine, files: Sequence[str]) -> tuple[str, FloatArray]:
    """SHA-256 of the tensor (float32, little endian, C order) and its calibrated slice probabilities."""
    tensor = preprocess([bundle.folder / name for name in files], bundle.preprocessing).tensor
    sha256 = hashlib.sha256(np.ascontiguousarray(tensor, dtype="<f4").tobytes()).hexdigest()
    return sha256, slice_probabilities(engine.run(tensor).logits, bundle.temperature)
