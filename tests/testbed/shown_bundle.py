"""A bundle that is intact and described as any other, with networks that nobody can run: for what only shows models."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from worker.inference.bundle import REQUIRED_FILES
from worker.results import CodedConcept, ModelClass, ModelIdentity


def make_shown_bundle(folder: Path, model: ModelIdentity, card: str = "# A test model\n") -> Path:
    """Write a bundle with the name, version and labels of `model` into `folder` and return that; the format is 2 for a
    model that may leave the kind of a tumour open."""
    for name in REQUIRED_FILES:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text({".json": "{}", ".md": card}.get(file.suffix, "no network"))
    described = {
        "format": 1,
        "name": model.name,
        "version": model.version,
        "family": model.family,
        "manufacturer": model.manufacturer,
        "created": "2026-03-01T12:00:00Z",
        "commit": "0" * 40,
        "training_data_sha256": "0" * 64,
        "limits": model.limits,
        "classes": [_described(model_class) for model_class in model.classes],
        "out_of_distribution": {"maximum_distance": 1.0, "maximum_residual": 1.0},
        "accepted_input": {"modalities": ["MR"], "minimum_slices": 1, "minimum_rows": 16, "maximum_pixels": 1 << 24},
        "files": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in REQUIRED_FILES},
    }
    rule = (
        _RULE_OF_ONE if model.undetermined is None else _RULE_OF_TWO | {"undetermined": _described(model.undetermined)}
    )
    (folder / "worker.json").write_text(json.dumps(described | rule))
    return folder


_RULE_OF_ONE: dict[str, Any] = {
    "temperature": 1.0,
    "aggregation": {"top_k": 3, "top_fraction": 0.125},
    "thresholds": {"minimum_probability": 0.5, "minimum_in_distribution": 0.5},
}
_RULE_OF_TWO: dict[str, Any] = {
    "format": 2,
    "outputs": {"sequences": ["other"], "regions": ["brain"]},
    "decision": {
        "other": {
            "supported": True, "planes": ["axial"], "slope": 1.0, "offset": 0.0, "per_slices": 0.0, "lesion_from": 0.5,
            "no_lesion_to": 0.5, "kind_temperature": 1.0, "minimum_kind": 0.5, "reliable_kinds": [],
        },
    },
    "series": {
        "neighbourhood_mm": 10.0, "minimum_brain": 0.5, "minimum_brain_slices": 0.2, "minimum_in_distribution": 0.3,
        "minimum_sequence": 0.6, "contradiction": 0.9,
    },
}  # fmt: skip


def _described(model_class: ModelClass) -> dict[str, Any]:
    return {
        "name": model_class.name,
        "title": model_class.title,
        "neoplasm": model_class.neoplasm,
        "finding": _code(model_class.finding) if model_class.finding else None,
        "site": _code(model_class.site),
    }


def _code(code: CodedConcept) -> dict[str, str]:
    return {"value": code.value, "scheme": code.scheme, "meaning": code.meaning}
