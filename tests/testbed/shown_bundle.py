"""A bundle that is intact and described as any other, with networks that nobody can run: for what only shows models."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from worker.inference.bundle import REQUIRED_FILES
from worker.results import CodedConcept, ModelIdentity


def make_shown_bundle(folder: Path, model: ModelIdentity, card: str = "# A test model\n") -> Path:
    """Write a bundle with the name, version and classes of `model` into `folder` and return that."""
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
        "classes": [
            {
                "name": model_class.name,
                "title": model_class.title,
                "neoplasm": model_class.neoplasm,
                "finding": _code(model_class.finding) if model_class.finding else None,
                "site": _code(model_class.site),
            }
            for model_class in model.classes
        ],
        "temperature": 1.0,
        "aggregation": {"top_k": 3, "top_fraction": 0.125},
        "thresholds": {"minimum_probability": 0.5, "minimum_in_distribution": 0.5},
        "out_of_distribution": {"maximum_distance": 1.0, "maximum_residual": 1.0},
        "accepted_input": {"modalities": ["MR"], "minimum_slices": 1, "minimum_rows": 16, "maximum_pixels": 1 << 24},
        "files": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in REQUIRED_FILES},
    }
    (folder / "worker.json").write_text(json.dumps(described))
    return folder


def _code(code: CodedConcept) -> dict[str, str]:
    return {"value": code.value, "scheme": code.scheme, "meaning": code.meaning}
