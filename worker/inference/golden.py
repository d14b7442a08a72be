"""Golden cases: the exporter's measurements, repeated on this host before a model serves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.errors import NotAssessable, StartError
from worker.inference.aggregate import in_distribution, slice_probabilities
from worker.inference.answer import judge_volume, read_declared
from worker.inference.bundle import Bundle, TopSlices
from worker.inference.engines import Engine, EngineOutputs, Precision
from worker.inference.preprocess import Volume
from worker.inference.series_rule import softmax, split_logits
from worker.inference.transforms.prepare import prepare
from worker.pixels.arrays import FloatArray

_ANSWER_TOLERANCE = 1e-6  # of a probability that is computed from the same logits


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Case(_Model):
    """`tensor_sha256` is None in a bundle of format 3: MONAI's transforms give other last bits on other processors."""

    name: str
    files: tuple[str, ...] = Field(min_length=1)
    tensor_sha256: str | None = None


class _Probabilities(_Case):
    """Of a bundle of format 1 or 3."""

    probabilities: tuple[tuple[float, ...], ...]


class _Answer(_Model):
    label: str | None
    reason: str | None
    lesion_probability: float | None


class _Logits(_Case):
    """Of a bundle of format 2."""

    logits: tuple[tuple[float, ...], ...]
    in_distribution: tuple[bool, ...]
    answer: _Answer


class _Expected(_Model):
    tolerance: dict[Precision, float]
    cases: tuple[_Probabilities, ...] | tuple[_Logits, ...] = Field(min_length=1)


def golden_case(bundle: Bundle, engine: Engine, name: str, files: Sequence[str]) -> dict[str, Any]:
    """Measure a case for golden/expected.json; `files` are relative to the bundle's folder. Raises NotAssessable."""
    volume, outputs = _measured(bundle, engine, files)
    case: dict[str, Any] = {"name": name, "files": list(files)}
    if bundle.input is None:
        case["tensor_sha256"] = _sha256(volume)
    if isinstance(bundle.rule, TopSlices):
        return {**case, "probabilities": slice_probabilities(outputs.logits, bundle.temperature).tolist()}
    allowed = in_distribution(outputs.features, bundle)
    return {
        **case,
        "logits": outputs.logits.tolist(),
        "in_distribution": allowed.tolist(),
        "answer": _answer(bundle, volume, files, outputs.logits, allowed).model_dump(),
    }


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
        if isinstance(case, _Probabilities) != isinstance(bundle.rule, TopSlices):
            raise StartError("bundle-corrupt", "golden/expected.json is of another format than worker.json")
        worst = max(worst, _deviation(bundle, engine, case, tolerance))
    return worst


def _deviation(bundle: Bundle, engine: Engine, case: _Probabilities | _Logits, tolerance: float) -> float:
    if any(not (bundle.folder / name).is_file() for name in case.files):
        raise StartError("bundle-corrupt", f"a file of golden case {case.name!r} is missing")
    try:
        volume, outputs = _measured(bundle, engine, case.files)
    except NotAssessable as refusal:
        raise StartError("bundle-golden", f"golden case {case.name!r} cannot be read: {refusal.reason}") from None
    if bundle.input is None and _sha256(volume) != case.tensor_sha256:
        raise StartError("bundle-golden", f"golden case {case.name!r}: preprocessing gives a different tensor")
    expected = np.array(case.logits if isinstance(case, _Logits) else case.probabilities, np.float32)
    if expected.shape != outputs.logits.shape:
        raise StartError("bundle-golden", f"golden case {case.name!r}: the network gives different classes or slices")
    if isinstance(case, _Logits):
        _check_answer(bundle, volume, case, expected)
        expected = output_probabilities(bundle, expected)
    deviation = float(np.abs(output_probabilities(bundle, outputs.logits) - expected).max())
    if not deviation <= tolerance:
        detail = f"a probability deviates by {deviation:.4f}, allowed is {tolerance:g} ({engine.precision})"
        raise StartError("bundle-golden", f"golden case {case.name!r}: {detail}")
    return deviation


def output_probabilities(bundle: Bundle, logits: FloatArray) -> FloatArray:
    """Calibrated probabilities of the classes; in format 2 those of classes, of sequences and of regions."""
    if isinstance(bundle.rule, TopSlices):
        return slice_probabilities(logits, bundle.temperature)
    groups = split_logits(logits, bundle.decision.layout)
    return np.concatenate([softmax(group) for group in groups], axis=1).astype(np.float32)


def _check_answer(bundle: Bundle, volume: Volume, case: _Logits, logits: FloatArray) -> None:
    """Check that the rule gives the exporter's answer for the exporter's logits: it does on every engine."""
    if len(case.in_distribution) != len(logits):
        raise StartError("bundle-golden", f"golden case {case.name!r}: the network gives different classes or slices")
    given = _answer(bundle, volume, case.files, logits, np.array(case.in_distribution))
    expected = case.answer
    near = (given.lesion_probability is None) == (expected.lesion_probability is None) and (
        abs((given.lesion_probability or 0) - (expected.lesion_probability or 0)) <= _ANSWER_TOLERANCE
    )
    if (given.label, given.reason) != (expected.label, expected.reason) or not near:
        shown = [f"{item.label or item.reason} ({item.lesion_probability})" for item in (given, expected)]
        raise StartError("bundle-golden", f"golden case {case.name!r}: the answer is {shown[0]}, expected {shown[1]}")


def _answer(bundle: Bundle, volume: Volume, files: Sequence[str], logits: FloatArray, allowed: Any) -> _Answer:
    declared = read_declared([bundle.folder / name for name in files])
    judged = judge_volume(volume, logits, allowed, bundle, declared)
    return _Answer(
        label=judged.decision.label if judged.decision else None,
        reason=judged.refusal.reason if judged.refusal else None,
        lesion_probability=judged.decision.lesion_probability if judged.decision else None,
    )


def _measured(bundle: Bundle, engine: Engine, files: Sequence[str]) -> tuple[Volume, EngineOutputs]:
    volume = prepare([bundle.folder / name for name in files], bundle)
    return volume, engine.run(volume.tensor)


def _sha256(volume: Volume) -> str:
    """SHA-256 of the tensor: float32, little endian, C order."""
    return hashlib.sha256(np.ascontiguousarray(volume.tensor, dtype="<f4").tobytes()).hexdigest()
