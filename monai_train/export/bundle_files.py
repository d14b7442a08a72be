"""The JSON files of a bundle (docs/bundle.md): configs/inference.json, configs/metadata.json and worker.json."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

from monai_train.data.dataset import PREPROCESSING_FILE, read_preprocessing
from monai_train.data.manifest import REGIONS, SEQUENCES
from monai_train.data.patients import LEARNED
from monai_train.export.coded_classes import undetermined_class
from monai_train.export.run_inputs import RunInputs
from monai_train.networks.registry import find_served
from worker.inference.run_bundle import MONAI_ENTRY

SERIES_LIMITS = {
    "neighbourhood_mm": 10.0,
    "minimum_brain": 0.5,
    "minimum_brain_slices": 0.2,
    "minimum_in_distribution": 0.3,
    "minimum_sequence": 0.6,
    "contradiction": 0.9,
}
UNFITTED_RULE = {
    "supported": True,
    "planes": ["axial", "coronal", "sagittal"],
    "slope": 1.0,
    "offset": 0.0,
    "per_slices": 0.0,
    "lesion_from": 0.5,
    "no_lesion_to": 0.5,
    "kind_temperature": 1.0,
    "minimum_kind": 0.0,
    "reliable_kinds": [],
}
LIMITS_BY_SEQUENCE = (
    "Research use only, not a medical device. Trained on public T1, T2, FLAIR and contrast-enhanced T1 slices of few "
    "scanners. Small lesions, tumours of children or after surgery and other diseases may be missed or called a tumour."
)
LIMITS = (
    "Research use only, not a medical device. Trained on single T1-weighted contrast-enhanced slices with a tumour and "
    "on mostly T2 and FLAIR slices without; tumours on other contrasts, after surgery or of other kinds may be missed."
)


def write_configs(folder: Path, inputs: RunInputs, version: str) -> None:
    """Write inference.json, metadata.json and the list of learned pictures into the bundle's folder `configs`."""
    network = json.dumps(find_served(inputs.config.network).definition(inputs.layout.size), indent=2)
    # The preprocessing definition is copied byte for byte, so the text is assembled rather than dumped.
    preprocessing = PREPROCESSING_FILE.read_text().strip()
    entry = json.dumps(MONAI_ENTRY, indent=2).removeprefix("{\n").removesuffix("\n}")
    text = f'{{\n"preprocessing": {preprocessing},\n"network_def": {network},\n{entry}\n}}\n'
    (folder / "inference.json").write_text(text)
    size = read_preprocessing().size
    image = {"type": "image", "format": "magnitude", "modality": "MR", "num_channels": 1, "spatial_shape": [size, size]}
    metadata = {
        "version": version,
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "task": f"classification of brain MRI slices: {', '.join(inputs.validation.classes.names)}",
        "description": _limits(inputs),
        "intended_use": "research use only",
        "network_data_format": {
            "inputs": {"image": image | {"dtype": "float32", "value_range": [0, 1], "is_patch_data": False}},
            "outputs": {
                "logits": {
                    "type": "logits",
                    "format": "classes",
                    "num_channels": inputs.layout.size,
                    "channel_def": {str(i): name for i, name in enumerate(_channels(inputs))},
                }
            },
        },
        "split": {
            "rule": "SHA-256 of 'split:' and the patient group, its first 32 bits as a share: "
            "monai_train.data.patients",
            "external": list(inputs.split.external),
            "test_share": inputs.split.test_share,
            "validation_share": inputs.split.validation_share,
            "split_sha256": inputs.split.split_sha256,
        },
    }
    write_json(folder / "metadata.json", metadata)
    (folder.parent / LEARNED).write_text("".join(f"{beginning}\n" for beginning in inputs.learned))


def _limits(inputs: RunInputs) -> str:
    return LIMITS_BY_SEQUENCE if inputs.layout.sequences else LIMITS


def _channels(inputs: RunInputs) -> list[str]:
    """The names of the network's outputs, in order."""
    others = [*(f"sequence {name}" for name in SEQUENCES), *(f"region {name}" for name in REGIONS)]
    return [*inputs.validation.classes.names, *(others if inputs.layout.sequences else [])]


def uncalibrated_description(
    inputs: RunInputs, name: str, version: str, classes: list[dict[str, Any]]
) -> dict[str, Any]:
    """worker.json before anything is fitted: thresholds and limits that decline nothing.

    Of format 2 if the run learned the sequence and the region, otherwise of format 1.
    """
    by_sequence = {
        "format": 2,
        "outputs": {"sequences": list(SEQUENCES), "regions": list(REGIONS)},
        "undetermined": undetermined_class(),
        "decision": dict.fromkeys(SEQUENCES, UNFITTED_RULE),
        "series": SERIES_LIMITS,
    }
    by_mean = {
        "format": 1,
        "temperature": 1.0,
        "aggregation": {"top_k": 3, "top_fraction": 0.125},
        "thresholds": {"minimum_probability": 0.0, "minimum_in_distribution": 0.3},
    }
    return {
        **(by_sequence if inputs.layout.sequences else by_mean),
        "name": name,
        "version": version,
        "family": inputs.config.network,
        "manufacturer": "brain-mri-worker project",
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": inputs.provenance["commit"],
        "training_data_sha256": inputs.provenance["data_sha256"],
        "limits": _limits(inputs),
        "classes": classes,
        "mirror": True,
        "out_of_distribution": {"maximum_distance": 1e9, "maximum_residual": 1e9},
        "accepted_input": {
            "modalities": ["MR"],
            "minimum_slices": 1,
            "minimum_rows": 64,
            "maximum_pixels": 16_777_216,
        },
    }


def write_worker_json(folder: Path, described: dict[str, Any]) -> None:
    """Write worker.json: the description and the SHA-256 of every other file in the folder."""
    path = folder / "worker.json"
    path.unlink(missing_ok=True)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    hashes = {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    write_json(path, {**described, "files": hashes})


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n")
