"""A real, tiny model bundle: valid in every file, made in seconds, and knowing nothing of brains.

Its network is a small MONAI ResNet with random weights of a fixed seed, so the same series gets the same class on every
run, and thresholds so low that every readable MR series is classified. In format 2 it takes every picture for a brain,
and leaves the sequence to the header.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino
import torch
from monai.networks import nets
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file as save_weights
from torch import nn

from tests.testbed.made_once import copied
from worker.dicom.standard import derive_uid
from worker.inference.bundle import load_bundle
from worker.inference.engines import OpenVinoEngine
from worker.inference.golden import golden_case
from worker.inference.preprocess import Preprocessing, preprocess
from worker.inference.run_bundle import MONAI_ENTRY
from worker.pixels.arrays import FloatArray

PREPROCESSING = Preprocessing(size=64)
REFORMATTING = replace(PREPROCESSING, slice_spacing_mm=5.0, reformat_below_mm=2.5)  # of format 2
NETWORK = {
    "_target_": "monai.networks.nets.ResNet",
    "block": "basic",
    "layers": [1, 1, 1, 1],
    "block_inplanes": [8, 16, 24, 32],
    "spatial_dims": 2,
    "n_input_channels": 1,
    "conv1_t_stride": 2,
    "num_classes": 4,
}
_BRAIN = {"value": "12738006", "scheme": "SCT", "meaning": "Brain"}
_PITUITARY = {"value": "56329008", "scheme": "SCT", "meaning": "Pituitary"}
CLASSES = [
    ("glioma", "Glioma", {"value": "393564001", "scheme": "SCT", "meaning": "Glioma"}, _BRAIN),
    ("meningioma", "Meningioma", {"value": "302820008", "scheme": "SCT", "meaning": "Intracranial meningioma"}, _BRAIN),
    ("pituitary", "Pituitary", {"value": "254956000", "scheme": "SCT", "meaning": "Pituitary adenoma"}, _PITUITARY),
    ("notumor", "No tumour", None, _BRAIN),
]
_LESION = {"value": "301766008", "scheme": "SCT", "meaning": "Lesion of brain"}
_NEOPLASM = {"value": "126952004", "scheme": "SCT", "meaning": "Neoplasm of brain"}
SEQUENCES, REGIONS = ["T1", "T1C", "T2", "FLAIR", "other"], ["brain", "head", "other"]
OUTPUTS_OF_TWO = len(CLASSES) + 1 + len(SEQUENCES) + len(REGIONS)
RULE = {
    "supported": True,
    "planes": ["axial", "coronal", "sagittal"],
    "slope": 1.0,
    "offset": 0.0,
    "per_slices": 0.0,
    "lesion_from": 0.5,
    "no_lesion_to": 0.5,
    "kind_temperature": 1.0,
    "minimum_kind": 0.0,
    "reliable_kinds": ["glioma", "meningioma", "pituitary", "other"],
}


class _ThreeOutputs(nn.Module):
    """logits, features and maps of a MONAI ResNet, as docs/bundle.md wants them."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def take_for_brains(self, share: slice) -> None:
        """Let nothing but the bias of the last layer decide the sequence (all alike) and the region (brain)."""
        self.net.fc.weight[share] = 0
        self.net.fc.bias[share] = 0
        self.net.fc.bias[share.stop - len(REGIONS)] = 9

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        net = self.net
        spatial = net.maxpool(net.act(net.bn1(net.conv1(image))))
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            spatial = layer(spatial)
        features = spatial.mean(dim=(2, 3))
        maps = nn.functional.conv2d(spatial, net.fc.weight[:, :, None, None], net.fc.bias)
        return net.fc(features), features, maps


def make_tiny_bundle(folder: Path, **changes: Any) -> Path:
    """Write the bundle into `folder` and return it; `changes` replace keys of worker.json, such as format=2."""
    digest = hashlib.sha256(repr(sorted(changes.items())).encode()).hexdigest()
    return copied(f"tiny-bundle-{digest}", folder, lambda made: _make(made, changes))


def _make(folder: Path, changes: dict[str, Any]) -> None:
    outputs, definition = len(CLASSES), PREPROCESSING
    if changes.get("format") == 2:
        outputs, definition = OUTPUTS_OF_TWO, REFORMATTING
    for name in ("configs", "models", "golden/head", "docs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    golden = [write_head(folder / f"golden/head/{index}.dcm", index) for index in range(3)]
    tensor = preprocess(golden, definition).tensor
    features = _write_networks(folder / "models", tensor, outputs)
    _write_statistics(folder / "models/features.safetensors", features)
    _write_json(folder / "configs/metadata.json", {"version": "0.0.1", "monai_version": "1.6", "task": "test"})
    network = {**NETWORK, "num_classes": outputs}
    inference = {"preprocessing": definition.to_json(), "network_def": network, **MONAI_ENTRY}
    _write_json(folder / "configs/inference.json", inference)
    (folder / "docs/README.md").write_text("# Tiny test bundle\n\nRandom weights. It says nothing about any patient.\n")
    _write_json(folder / "golden/expected.json", {"tolerance": {"fp32": 0.001, "int8": 0.2}, "cases": []})
    write_worker_json(folder, **changes)
    bundle = load_bundle(folder)
    files = [path.relative_to(folder).as_posix() for path in golden]
    case = golden_case(bundle, OpenVinoEngine(bundle, "fp32"), "head", files)
    _write_json(folder / "golden/expected.json", {"tolerance": {"fp32": 0.001, "int8": 0.2}, "cases": [case]})
    write_worker_json(folder, **changes)


def write_worker_json(folder: Path, **changes: Any) -> None:
    """Hash what is in the folder and describe it; call it again after changing a file."""
    worker_json = folder / "worker.json"
    worker_json.unlink(missing_ok=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    described: dict[str, Any] = {
        "format": 1,
        "name": "tiny-test-model",
        "version": "0.0.1",
        "family": "ResNet",
        "manufacturer": "tests",
        "created": "2026-11-21T09:00:00Z",
        "commit": "0" * 40,
        "training_data_sha256": "0" * 64,
        "limits": "Random weights, for tests only.",
        "classes": [
            {"name": name, "title": title, "neoplasm": finding is not None, "finding": finding, "site": site}
            for name, title, finding, site in CLASSES
        ],
        "out_of_distribution": {"maximum_distance": 1e9, "maximum_residual": 1e9},
        "accepted_input": {
            "modalities": ["MR"],
            "minimum_slices": 1,
            "minimum_rows": 16,
            "maximum_pixels": 1 << 24,
        },
        "files": {path.relative_to(folder).as_posix(): _sha256(path) for path in files},
    }
    described |= _rule_of_two(described["classes"]) if changes.get("format") == 2 else _RULE_OF_ONE
    _write_json(worker_json, described | changes)


_RULE_OF_ONE: dict[str, Any] = {
    "temperature": 1.0,
    "aggregation": {"top_k": 3, "top_fraction": 0.125},
    "thresholds": {"minimum_probability": 0.0, "minimum_in_distribution": 0.0},
}


def _rule_of_two(classes: list[dict[str, Any]]) -> dict[str, Any]:
    """What format 2 has instead."""
    other = {"name": "other", "title": "Other lesion", "neoplasm": False, "finding": _LESION, "site": _BRAIN}
    tumour = {"name": "tumor", "title": "Tumour, kind not determined", "neoplasm": True, "finding": _NEOPLASM}
    return {
        "classes": [*classes[:-1], other, classes[-1]],
        "outputs": {"sequences": SEQUENCES, "regions": REGIONS},
        "undetermined": tumour | {"site": _BRAIN},
        "decision": {name: RULE | {"supported": name != "other"} for name in SEQUENCES},
        "series": {
            "neighbourhood_mm": 10.0,
            "minimum_brain": 0.5,
            "minimum_brain_slices": 0.2,
            "minimum_in_distribution": 0.3,
            "minimum_sequence": 0.6,
            "contradiction": 0.9,
        },
    }


def copy_bundle(source: Path, target: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(source, target))


def write_head(path: Path, index: int) -> Path:
    """Slice `index` of an axial series of bright ellipses with a ring, 16-bit MR."""
    rows, columns = np.mgrid[-1:1:96j, -1:1:80j]
    head = (rows / 0.8) ** 2 + (columns / 0.7) ** 2 < 1
    ring = np.abs(np.hypot(rows - 0.2, columns + 0.25) - 0.12 - 0.03 * index) < 0.04
    pixels = (600 * head + 500 * ring + 40 * np.cos(9 * rows) * head).astype(np.uint16)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = derive_uid("tiny-bundle", str(index))
    ds.StudyInstanceUID = derive_uid("tiny-bundle", "study")
    ds.SeriesInstanceUID = derive_uid("tiny-bundle", "series")
    ds.Modality, ds.InstanceNumber, ds.PatientID, ds.PatientName = "MR", index + 1, "TINY", "Synthetic"
    ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-80, -96, 6.0 * index]
    ds.Rows, ds.Columns = pixels.shape
    ds.PixelSpacing = [2, 2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = pixels.tobytes()
    ds.save_as(path, enforce_file_format=True)
    return path


def _write_networks(models: Path, tensor: FloatArray, outputs: int) -> FloatArray:
    """Weights and both OpenVINO networks; returns the features of `tensor`."""
    torch.manual_seed(7)
    arguments: dict[str, Any] = {key: value for key, value in NETWORK.items() if key != "_target_"}
    arguments["num_classes"] = outputs
    net = _ThreeOutputs(nets.ResNet(**arguments)).train()
    image = torch.from_numpy(tensor)
    with torch.no_grad():
        for _ in range(20):
            net(image)  # running statistics of the batch norms: else the activations vanish
        net.net.fc.weight.mul_(5.0)  # answers far from uniform
        if outputs == OUTPUTS_OF_TWO:
            net.take_for_brains(slice(len(CLASSES) + 1, outputs))
        net.eval()
        features = net(image)[1].numpy()
    save_weights(net.net.state_dict(), models / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # OpenVINO traces with torch.jit, which torch deprecates
        model = openvino.convert_model(net, example_input=image[:1], input=[-1, 1, *tensor.shape[2:]])
    model.inputs[0].set_names({"image"})
    for output, name in zip(model.outputs, ("logits", "features", "maps"), strict=True):
        output.set_names({name})
    openvino.save_model(model, models / "model_fp32.xml", compress_to_fp16=False)
    calibration = nncf.Dataset([{"image": one[None]} for one in tensor])
    openvino.save_model(nncf.quantize(model, calibration, subset_size=len(tensor)), models / "model.xml")
    return np.asarray(features)


def _write_statistics(path: Path, features: FloatArray) -> None:
    """Mean and one principal direction."""
    mean = features.mean(axis=0)
    _, spread, directions = np.linalg.svd(features - mean, full_matrices=False)
    scale = np.maximum(spread[:1] / len(features) ** 0.5, 1e-6)
    arrays = {"mean": mean, "components": directions[:1], "scale": scale}
    save_arrays({name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}, path)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
