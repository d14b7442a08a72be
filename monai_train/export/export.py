"""A run's best checkpoint → a bundle (docs/bundle.md): weights, OpenVINO networks, statistics, golden cases, card.

Temperature, abstention and out-of-distribution limits are fitted on the validation part by the engine that will
serve (int8); the test part is measured once, for the card.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import monai
import nncf
import numpy as np
import openvino
import torch
from nncf.quantization.range_estimator import RangeEstimatorParametersSet
from rich.console import Console
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file as save_weights

from monai_train.config import TrainConfig
from monai_train.data.dataset import PREPROCESSING_FILE, Pictures, load_pictures, read_preprocessing
from monai_train.data.labels import CLASS_NAMES, NO_TUMOUR
from monai_train.data.manifest import deduplicate, read_manifest
from monai_train.data.patients import SplitRole, split_sha256
from monai_train.evaluation.evaluate import (
    Measurement,
    TrainingSplit,
    fit_temperature,
    measure_split,
    run_in_batches,
    run_split,
)
from monai_train.export.coded_classes import CLASSES
from monai_train.export.drawn_figures import drawn_figures
from monai_train.export.golden import write_golden_series
from monai_train.export.model_card import TITLES, data_section, model_card
from monai_train.networks.classifier import Classifier
from monai_train.networks.registry import find_served
from monai_train.training.checkpoint import BEST, HEALTHY, read_checkpoint
from monai_train.training.weight_averaging import averaged
from worker.errors import StartError
from worker.inference.aggregate import distance_and_residual, slice_probabilities
from worker.inference.bundle import FeatureStatistics, load_bundle
from worker.inference.engines import OpenVinoEngine, TorchEngine
from worker.inference.golden import check_golden, golden_case
from worker.inference.run_bundle import MONAI_ENTRY
from worker.pixels.arrays import FloatArray

LIMITS = (
    "Research use only, not a medical device. Trained on single T1-weighted contrast-enhanced slices with a tumour and "
    "on mostly T2 and FLAIR slices without; tumours on other contrasts, after surgery or of other kinds may be missed."
)
MAXIMUM_BYTES = 30_000_000
ENGINE_TOLERANCE = 1e-3
_OTHER_PROCESSORS = 0.05  # that int8 may differ more on another CPU than it did here
_CALIBRATION_PICTURES = 300
_COMPONENTS = 32
_ANSWERED = 0.95  # of validation slices, by the least probability
_LEAST_PROBABILITY = 0.5
_MISSED = 0.01  # of validation tumours that may be called "no tumour" outright
_SUREST_NO_TUMOUR = 0.9  # never ask for more, or no healthy head would be answered
_LOST_BY_INT8 = 0.005  # of balanced accuracy on the test part


@dataclass(frozen=True, eq=False, slots=True)
class _Parts:
    """The pictures of the run's split: all of training, one a picture of validation and test."""

    config: TrainConfig
    split: TrainingSplit
    provenance: dict[str, str]
    training: Pictures
    validation: Pictures
    model: Classifier
    healthy: torch.Tensor  # uint8 [m, 1, s, s]: the slices of the healthy volume that training saw, m may be 0


def export(
    run: Path,
    data: Path,
    out: Path,
    name: str,
    version: str,
    console: Console | None = None,
    average_with: Sequence[Path] = (),
) -> Path:
    """Write the bundle to OUT, which must not exist yet, and check it as the worker would; returns OUT.

    With `average_with`, other runs of the same network on the same split, the mean of all weights is exported.
    Raises StartError: data other than the run's, engines that disagree, int8 that costs too much, over 30 MB.
    """
    console = console or Console(stderr=True)
    if out.exists():
        raise StartError("out-exists", f"{out} exists already")
    parts = _read_run(run, data)
    if average_with:
        parts = _averaged(parts, run, average_with, console)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        folder = Path(temporary) / "bundle"
        for part in ("configs", "models", "golden", "docs"):
            (folder / part).mkdir(parents=True)
        console.print("networks: torch, OpenVINO fp32 and int8")
        _write_weights(parts.model, folder / "models/model.safetensors")
        _write_networks(parts.model, parts.training, folder / "models")
        _write_configs(folder / "configs", parts, version)
        _write_json(folder / "golden/expected.json", {"tolerance": {}, "cases": []})
        (folder / "docs/README.md").write_text("# to be written\n")
        described = _describe(parts, name, version)
        _write_statistics(folder, described, parts)
        console.print("calibration on the validation part, by the int8 engine")
        _calibrate(folder, described, parts)
        _write_golden(folder, described)
        console.print("figures of the test part and of the external sets")
        measured = measure_split(folder, data)
        datasets = data_section(read_manifest(data), parts.config.external, parts.provenance.get("healthy_sha256", ""))
        card = model_card(described, parts.config, parts.provenance, datasets, measured)
        (folder / "docs/README.md").write_text(card)
        (folder / "docs/figures.json").write_text(json.dumps(drawn_figures(measured, TITLES)) + "\n")
        write_worker_json(folder, described)
        _check(folder, measured)
        folder.rename(out)
    return out


def _read_run(run: Path, data: Path) -> _Parts:
    best = read_checkpoint(run / BEST)
    config = best.config
    find_served(config.network)
    rows = read_manifest(data)
    split = run_split(run)
    roles = split.roles(rows)
    if split_sha256(rows, roles) != split.split_sha256:
        raise StartError("other-data", f"{data} does not hold the data and groups that {run} was trained on")
    pictures = load_pictures(data, rows, read_preprocessing())
    by_role = {role: [i for i, one in enumerate(roles) if one is role] for role in SplitRole}
    return _Parts(
        config,
        split,
        best.provenance,
        pictures.select(deduplicate(rows, by_role[SplitRole.TRAIN])),
        pictures.select(deduplicate(rows, by_role[SplitRole.VALIDATION])),
        best.classifier(),
        _healthy(run, pictures),
    )


def _averaged(parts: _Parts, run: Path, others: Sequence[Path], console: Console) -> _Parts:
    """The mean of the runs' weights in place of the first run's. Raises StartError for runs that do not go together."""
    checkpoints = [read_checkpoint(path / BEST) for path in (run, *others)]
    for path, checkpoint in zip(others, checkpoints[1:], strict=True):
        split = checkpoint.provenance["split_sha256"]
        if checkpoint.config.network != parts.config.network or split != parts.split.split_sha256:
            raise StartError("other-run", f"{path} holds another network or split than {run}: only equal ones average")
    weights = [checkpoint.average for checkpoint in checkpoints]
    figures = averaged(parts.model, weights, parts.training, parts.validation)
    shown = ", ".join(f"{figure:.4f}" for figure in figures[:-1])
    console.print(f"validation balanced accuracy of the runs {shown}, of their mean {figures[-1]:.4f}")
    return replace(parts, provenance={**parts.provenance, "averaged_runs": str(len(checkpoints))})


def _healthy(run: Path, pictures: Pictures) -> torch.Tensor:
    if (run / HEALTHY).exists():
        return torch.from_numpy(np.load(run / HEALTHY))
    return torch.empty((0, *pictures.pixels.shape[1:]), dtype=torch.uint8)


def _write_weights(model: Classifier, path: Path) -> None:
    """The weights, convolutions and linear ones rounded to half precision once, for every engine alike."""
    with torch.no_grad():
        for parameter in model.net.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half().float())
    state = model.net.state_dict()
    kept = {key: value.half() if value.ndim > 1 else value for key, value in state.items()}
    save_weights({key: value.contiguous() for key, value in kept.items()}, path)


def _tensor(pixels: torch.Tensor) -> FloatArray:
    return (pixels.float() / 255).numpy()


def openvino_network(model: Classifier, size: int) -> Any:
    """The network as OpenVINO has it, full precision: `image` → `logits`, `features`, `maps` (docs/bundle.md)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # OpenVINO traces with torch.jit, which torch deprecates
        converted = openvino.convert_model(
            model, example_input=torch.zeros(1, 1, size, size), input=[-1, 1, size, size]
        )
    converted.inputs[0].set_names({"image"})
    for output, name in zip(converted.outputs, ("logits", "features", "maps"), strict=True):
        output.set_names({name})
    return converted


def _write_networks(model: Classifier, training: Pictures, folder: Path) -> None:
    converted = openvino_network(model, training.pixels.shape[-1])
    openvino.save_model(converted, folder / "model_fp32.xml", compress_to_fp16=False)
    chosen = torch.linspace(0, len(training.rows) - 1, min(_CALIBRATION_PICTURES, len(training.rows))).long()
    images = [{"image": _tensor(training.pixels[i : i + 1])} for i in chosen.tolist()]
    # The whole bias correction and plain minima and maxima take a few seconds more than the defaults and come five
    # times nearer to full precision (root mean square of the logits' differences on validation, 0.02 against 0.10).
    quantized = nncf.quantize(
        converted,
        nncf.Dataset(images),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images),
        fast_bias_correction=False,
        advanced_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
        ),
    )
    openvino.save_model(quantized, folder / "model.xml")


def _write_configs(folder: Path, parts: _Parts, version: str) -> None:
    network = json.dumps(find_served(parts.config.network).definition(len(CLASS_NAMES)), indent=2)
    # The preprocessing definition goes in byte for byte, so the text is put together rather than dumped.
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
        "task": "classification of brain MRI slices: glioma, meningioma, pituitary tumour, no tumour",
        "description": LIMITS,
        "intended_use": "research use only",
        "network_data_format": {
            "inputs": {"image": image | {"dtype": "float32", "value_range": [0, 1], "is_patch_data": False}},
            "outputs": {
                "logits": {
                    "type": "logits",
                    "format": "classes",
                    "num_channels": len(CLASS_NAMES),
                    "channel_def": {str(i): name for i, name in enumerate(CLASS_NAMES)},
                }
            },
        },
        "split": {
            "rule": "SHA-256 of 'split:' and the patient group, its first 32 bits as a share: monai_train.data.dataset",
            "external": list(parts.split.external),
            "test_share": parts.split.test_share,
            "validation_share": parts.split.validation_share,
            "split_sha256": parts.split.split_sha256,
        },
    }
    _write_json(folder / "metadata.json", metadata)


def _describe(parts: _Parts, name: str, version: str) -> dict[str, Any]:
    """worker.json before anything was fitted: nothing is refused yet."""
    return {
        "format": 1,
        "name": name,
        "version": version,
        "family": parts.config.network,
        "manufacturer": "brain-mri-worker project",
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": parts.provenance["commit"],
        "training_data_sha256": parts.provenance["data_sha256"],
        "limits": LIMITS,
        "classes": CLASSES,
        "mirror": True,
        "temperature": 1.0,
        "aggregation": {"top_k": 3, "top_fraction": 0.125},
        "thresholds": {"minimum_probability": 0.0, "minimum_in_distribution": 0.3},
        "out_of_distribution": {"maximum_distance": 1e9, "maximum_residual": 1e9},
        "accepted_input": {
            "modalities": ["MR"],
            "minimum_slices": 1,
            "minimum_rows": 64,
            "maximum_pixels": 16_777_216,
        },
    }


def feature_statistics(features: FloatArray, components: int = _COMPONENTS) -> FeatureStatistics:
    """Mean and principal components with their standard deviations of features [n, F]."""
    mean = features.mean(axis=0)
    _, spread, directions = np.linalg.svd(features - mean, full_matrices=False)
    kept = min(components, len(features) - 1, features.shape[1])
    scale = np.maximum(spread[:kept] / np.sqrt(max(1, len(features) - 1)), 1e-6)
    arrays = (mean, directions[:kept], scale)
    return FeatureStatistics(*(np.ascontiguousarray(array, np.float32) for array in arrays))


def _write_statistics(folder: Path, described: dict[str, Any], parts: _Parts) -> None:
    pixels = torch.cat([parts.training.pixels, parts.healthy])
    with torch.inference_mode():
        batches = (part.float() / 255 for part in torch.split(pixels, 128))
        features = torch.cat([parts.model(batch).features for batch in batches]).numpy()
    statistics = feature_statistics(features)
    arrays = {"mean": statistics.mean, "components": statistics.components, "scale": statistics.scale}
    save_arrays(arrays, folder / "models/features.safetensors")
    write_worker_json(folder, described)


def limits_for(distance: FloatArray, residual: FloatArray, accepted: float) -> tuple[float, float]:
    """The limits of distance and residual, at one quantile of each, that accept this share of the slices together."""
    for quantile in np.linspace(accepted, 1, 201):
        limits = float(np.quantile(distance, quantile)), float(np.quantile(residual, quantile))
        if np.mean((distance <= limits[0]) & (residual <= limits[1])) >= accepted:
            break
    return limits


def safe_no_tumour(probabilities: FloatArray, labels: Sequence[int]) -> float:
    """The least probability of "no tumour" above which at most 1 % of the tumours [n, classes] lie; at most 0.9."""
    of_tumours = probabilities[np.array(labels) != NO_TUMOUR, NO_TUMOUR]
    return min(_SUREST_NO_TUMOUR, float(np.quantile(of_tumours, 1 - _MISSED)))


def _calibrate(folder: Path, described: dict[str, Any], parts: _Parts) -> None:
    bundle = load_bundle(folder)
    outputs = run_in_batches(OpenVinoEngine(bundle, "int8", parts.config.threads), _tensor(parts.validation.pixels))
    labels = parts.validation.labels.tolist()
    described["temperature"] = fit_temperature(outputs.logits, labels)
    probabilities = slice_probabilities(outputs.logits, described["temperature"])
    least = max(_LEAST_PROBABILITY, float(np.quantile(probabilities.max(axis=1), 1 - _ANSWERED)))
    described["thresholds"]["minimum_probability"] = round(least, 3)
    described["thresholds"]["minimum_no_neoplasm"] = round(safe_no_tumour(probabilities, labels), 3)
    network = find_served(parts.config.network)
    spread = distance_and_residual(outputs.features, bundle.statistics)
    distance, residual = limits_for(*spread, network.accepted_share)
    described["out_of_distribution"] = {
        "maximum_distance": round(network.limit_factor * distance, 3),
        "maximum_residual": round(network.limit_factor * residual, 3),
    }
    write_worker_json(folder, described)


def _write_golden(folder: Path, described: dict[str, Any]) -> None:
    series = write_golden_series(folder / "golden")
    write_worker_json(folder, described)
    bundle = load_bundle(folder)
    engine = OpenVinoEngine(bundle, "fp32")
    cases = [
        golden_case(bundle, engine, name, [path.relative_to(folder).as_posix() for path in paths])
        for name, paths in series.items()
    ]
    tolerance = {"fp32": ENGINE_TOLERANCE, "int8": 1.0}
    _write_json(folder / "golden/expected.json", {"tolerance": tolerance, "cases": cases})
    # How far int8 is from fp32 on these heads says nothing of its quality, which the test part measures; it is kept
    # so that another machine can tell whether it computes the same.
    write_worker_json(folder, described)
    measured = check_golden(load_bundle(folder), OpenVinoEngine(bundle, "int8"))
    tolerance["int8"] = round(measured + _OTHER_PROCESSORS, 3)
    _write_json(folder / "golden/expected.json", {"tolerance": tolerance, "cases": cases})
    write_worker_json(folder, described)


def _check(folder: Path, measured: dict[str, Measurement]) -> None:
    """What docs/bundle.md promises of a bundle. Raises StartError."""
    bundle = load_bundle(folder)
    engines = OpenVinoEngine(bundle, "int8"), OpenVinoEngine(bundle, "fp32")
    for engine in engines:
        check_golden(bundle, engine)
    generator = np.random.default_rng(0)
    tensor = generator.random((4, 1, bundle.preprocessing.size, bundle.preprocessing.size), np.float32)
    reference = [TorchEngine(bundle).run(tensor), engines[1].run(tensor)]
    torch_p, openvino_p = (slice_probabilities(one.logits, bundle.temperature) for one in reference)
    if np.abs(torch_p - openvino_p).max() > ENGINE_TOLERANCE:
        raise StartError("engines-disagree", "torch and OpenVINO fp32 give different probabilities")
    figures = [measured[key].report()["slice"]["balanced_accuracy"] for key in ("test-fp32", "test")]
    if figures[0] - figures[1] > _LOST_BY_INT8:
        raise StartError("int8-too-coarse", f"int8 costs {100 * (figures[0] - figures[1]):.1f} points")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MAXIMUM_BYTES:
        raise StartError("bundle-too-large", f"the bundle has {size / 1e6:.1f} MB; a slimmer network is needed")


def write_worker_json(folder: Path, described: dict[str, Any]) -> None:
    """Hash what is in the folder and describe it."""
    path = folder / "worker.json"
    path.unlink(missing_ok=True)
    files = sorted(one for one in folder.rglob("*") if one.is_file())
    hashes = {one.relative_to(folder).as_posix(): hashlib.sha256(one.read_bytes()).hexdigest() for one in files}
    _write_json(path, {**described, "files": hashes})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
