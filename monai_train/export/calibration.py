"""Fit what a bundle needs beside weights: temperature, thresholds, feature statistics, out-of-distribution limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from monai_train.data.labels import Classes
from monai_train.data.manifest import REGIONS
from monai_train.evaluation.evaluate import fit_temperature, run_in_batches
from monai_train.evaluation.studies.fusion_figures import study_cases
from monai_train.evaluation.studies.series_answers import Outputs
from monai_train.export.bundle_files import write_worker_json
from monai_train.export.cases import SliceOutputs, kind_cases, lesion_cases
from monai_train.export.decision import fit_rules
from monai_train.export.engine_networks import image_tensor
from monai_train.export.run_inputs import RunInputs
from monai_train.export.study_rule import fit_study_rule
from monai_train.networks.registry import find_served
from worker.inference.aggregate import distance_and_residual, in_distribution, slice_probabilities
from worker.inference.bundle import Bundle, FeatureStatistics, load_bundle
from worker.inference.engines import EngineOutputs, OpenVinoEngine
from worker.inference.series_rule import softmax, split_logits
from worker.pixels.arrays import FloatArray

_COMPONENTS = 32
_STATISTICS_PICTURES = 4096  # more change mean and components by nothing that matters
_ANSWERED = 0.95  # of validation slices, by the minimum probability
_LEAST_PROBABILITY = 0.5
_WITHOUT_SAY = 0.025  # of validation slices with brain, by the minimum of P(brain)
_LEAST_BRAIN, _MOST_BRAIN = 0.5, 0.97
_BRAIN = REGIONS.index("brain")
_MISSED = 0.01  # of validation tumours that may be called "no tumour" outright
_SUREST_NO_TUMOUR = 0.9  # an upper limit, or no healthy head would be answered


def feature_statistics(features: FloatArray, components: int = _COMPONENTS) -> FeatureStatistics:
    """Mean and principal components with their standard deviations of features [n, F]."""
    mean = features.mean(axis=0)
    _, spread, directions = np.linalg.svd(features - mean, full_matrices=False)
    kept = min(components, len(features) - 1, features.shape[1])
    scale = np.maximum(spread[:kept] / np.sqrt(max(1, len(features) - 1)), 1e-6)
    arrays = (mean, directions[:kept], scale)
    return FeatureStatistics(*(np.ascontiguousarray(array, np.float32) for array in arrays))


def write_statistics(folder: Path, described: dict[str, Any], inputs: RunInputs) -> None:
    """Write the feature statistics of training pictures of brain and of healthy slices into the bundle's folder."""
    brain = [i for i, row in enumerate(inputs.training.rows) if row.region in ("brain", "")]
    chosen = np.linspace(0, len(brain) - 1, min(_STATISTICS_PICTURES, len(brain))).astype(int)
    pixels = torch.cat([inputs.training.pixels[[brain[k] for k in chosen]], inputs.healthy])
    with torch.inference_mode():
        batches = (batch.float() / 255 for batch in torch.split(pixels, 128))
        features = torch.cat([inputs.model(batch).features for batch in batches]).numpy()
    statistics = feature_statistics(features)
    arrays = {"mean": statistics.mean, "components": statistics.components, "scale": statistics.scale}
    save_file(arrays, folder / "models/features.safetensors")
    write_worker_json(folder, described)


def distribution_limits(distance: FloatArray, residual: FloatArray, accepted: float) -> tuple[float, float]:
    """The limits of distance and residual, at the same quantile of each, that together accept this share of slices."""
    for quantile in np.linspace(accepted, 1, 201):
        limits = float(np.quantile(distance, quantile)), float(np.quantile(residual, quantile))
        if np.mean((distance <= limits[0]) & (residual <= limits[1])) >= accepted:
            break
    return limits


def minimum_no_tumour(probabilities: FloatArray, labels: Sequence[int], classes: Classes) -> float:
    """The probability of "no tumour" that at most 1 % of the tumours [n, classes] exceed; at most 0.9."""
    of_tumours = probabilities[np.array(labels) != classes.no_tumour, classes.no_tumour]
    return min(_SUREST_NO_TUMOUR, float(np.quantile(of_tumours, 1 - _MISSED)))


def minimum_brain(probabilities: FloatArray) -> float:
    """The P(brain) that all but a fortieth of slices with brain [n] reach, from 0.5 to 0.97."""
    if not len(probabilities):
        return _LEAST_BRAIN
    return round(float(np.clip(np.quantile(probabilities, _WITHOUT_SAY), _LEAST_BRAIN, _MOST_BRAIN)), 3)


def calibrate(folder: Path, described: dict[str, Any], inputs: RunInputs) -> None:
    """Fit temperature, thresholds and limits on the validation part by the int8 engine, and write them."""
    bundle = load_bundle(folder)
    engine = OpenVinoEngine(bundle, "int8", inputs.config.threads)
    outputs = run_in_batches(engine, image_tensor(inputs.validation.pixels))
    described["out_of_distribution"] = _limits(bundle, outputs, inputs)
    if inputs.layout.sequences:
        brain = np.array([row.region == "brain" for row in inputs.validation.rows])
        shown = split_logits(outputs.logits, bundle.decision.layout)[2][brain]
        described["series"] = {
            **described["series"],
            "minimum_brain": minimum_brain(softmax(shown)[:, _BRAIN].astype(np.float32)),
        }
        write_worker_json(folder, described)
        _fit_rules(load_bundle(folder), described, outputs, inputs)
        write_worker_json(folder, described)
        _fit_study_rule(load_bundle(folder), described, outputs, inputs)
    else:
        _fit_thresholds(described, outputs, inputs)
    write_worker_json(folder, described)


def _fit_rules(bundle: Bundle, described: dict[str, Any], outputs: EngineOutputs, inputs: RunInputs) -> None:
    """Fit the rules of format 2 by the cases of the validation part."""
    answered = SliceOutputs(inputs.validation.rows, outputs.logits, in_distribution(outputs.features, bundle))
    classes, decision = inputs.validation.classes, bundle.decision
    described["decision"] = fit_rules(
        lesion_cases(answered, classes, decision.layout, decision.limits),
        kind_cases(answered, classes, decision.layout),
        decision.layout.sequences,
        [classes.names[index] for index in classes.lesions],
    )


def _fit_study_rule(bundle: Bundle, described: dict[str, Any], outputs: EngineOutputs, inputs: RunInputs) -> None:
    """Fit how sequences count together by the patients of the validation part, where enough have several."""
    classes = inputs.validation.classes
    answered = Outputs(inputs.validation.rows, outputs.logits, in_distribution(outputs.features, bundle))
    cases = study_cases(bundle, answered, inputs.validation.labels.tolist(), classes.no_tumour)
    if (section := fit_study_rule(cases, bundle.identity)) is not None:
        described["study"] = section


def _fit_thresholds(described: dict[str, Any], outputs: EngineOutputs, inputs: RunInputs) -> None:
    """Fit temperature and thresholds of format 1."""
    labels, classes = inputs.validation.labels.tolist(), inputs.validation.classes
    described["temperature"] = fit_temperature(outputs.logits, labels, classes)
    probabilities = slice_probabilities(outputs.logits, described["temperature"])
    minimum = max(_LEAST_PROBABILITY, float(np.quantile(probabilities.max(axis=1), 1 - _ANSWERED)))
    described["thresholds"]["minimum_probability"] = round(minimum, 3)
    described["thresholds"]["minimum_no_neoplasm"] = round(minimum_no_tumour(probabilities, labels, classes), 3)


def _limits(bundle: Bundle, outputs: EngineOutputs, inputs: RunInputs) -> dict[str, float]:
    """The limits of distance and residual, fitted on the slices that show brain, as far as that is known."""
    network = find_served(inputs.config.network)
    brain = np.array([row.region in ("brain", "") for row in inputs.validation.rows])
    spread = distance_and_residual(outputs.features[brain], bundle.statistics)
    distance, residual = distribution_limits(*spread, network.accepted_share)
    return {
        "maximum_distance": round(network.limit_factor * distance, 3),
        "maximum_residual": round(network.limit_factor * residual, 3),
    }
