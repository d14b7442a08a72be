"""Classify the pictures of a converted folder with a bundle's engine or a run's checkpoint, and measure the answers.

It is one file, so that bundles of both formats and runs are measured by the same steps.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from monai_train.data.dataset import (
    box_on,
    load_pictures,
    preprocess_together,
    read_preprocessing,
    series_files,
    series_of,
)
from monai_train.data.labels import ANY_TUMOUR, NO_TUMOUR, Classes, class_name
from monai_train.data.manifest import ManifestRow, deduplicate, manifest_path, read_manifest
from monai_train.data.patients import SplitRole, learned_pictures, split_roles, unseen
from monai_train.evaluation.metrics import (
    BoolArray,
    IntArray,
    Predictions,
    binary_figures,
    level_figures,
    patient_predictions,
)
from monai_train.evaluation.studies.fusion_figures import StudyFigures, study_cases, study_figures
from monai_train.evaluation.studies.series_answers import Outputs, judge_series
from monai_train.networks.classifier import Classifier
from monai_train.training.checkpoint import BEST, Checkpoint, read_checkpoint
from worker.errors import NotAssessable, StartError
from worker.inference.aggregate import deciding_slices, in_distribution, lesion_probability, slice_probabilities
from worker.inference.bundle import Bundle, TopSlices, load_bundle
from worker.inference.classify import check_accepted
from worker.inference.engines import EngineOutputs, OpenVinoEngine, Precision
from worker.inference.series_rule import softmax, split_logits
from worker.pixels.arrays import ByteArray, FloatArray

_BATCH = 64


@dataclass(frozen=True, slots=True)
class TrainingSplit:
    """How a bundle's training data were split; stored in its configs/metadata.json."""

    external: tuple[str, ...]
    test_share: float
    validation_share: float
    split_sha256: str

    def roles(self, rows: Sequence[ManifestRow]) -> tuple[SplitRole, ...]:
        """The role that each row had, or would have had, in the training of this model."""
        return split_roles(rows, self.external, self.test_share, self.validation_share)


@dataclass(frozen=True, slots=True)
class Measurement:
    """The answers to slices, those of `rows`, and to patients; how many slices were unreadable, by stable reason."""

    slices: Predictions
    patients: Predictions
    unreadable: Counter[str] = field(default_factory=Counter)
    rows: tuple[ManifestRow, ...] = ()
    studies: StudyFigures | None = None  # of patients with several sequences, by a bundle of format 2

    def to_json(self) -> dict[str, Any]:
        """The content of `evaluate --json`."""
        labels = list(self.slices.classes.names)
        if (self.slices.truth == self.slices.classes.any_tumour).any():
            labels.append(ANY_TUMOUR)
        return {
            "labels": labels,
            "n": len(self.slices.truth),
            "not_assessed": int((~self.slices.assessed).sum()),
            "unreadable": dict(self.unreadable),
            "slice": level_figures(self.slices),
            "patient": level_figures(self.patients),
            "binary": binary_figures(self.slices),
            "patient_binary": binary_figures(self.patients),
            **({"studies": self.studies.to_json()} if self.studies else {}),
        }


@dataclass(frozen=True, eq=False, slots=True)
class Evidence:
    """What the answers to `rows` rest on, for reports.

    `pixels` uint8 [n, s, s] as input to the network, `boxes` [n, 4] as `Pictures.boxes`, `features` [n, F],
    `maps` [n, classes, h, w].
    """

    rows: tuple[ManifestRow, ...]
    pixels: ByteArray
    boxes: FloatArray
    features: FloatArray
    maps: FloatArray


def read_split(bundle: Path) -> TrainingSplit:
    """Read the split of a bundle's training. Raises StartError for a bundle of another program."""
    stored = json.loads((bundle / "configs/metadata.json").read_text()).get("split")
    if not isinstance(stored, dict):
        raise StartError("no-split", f"{bundle} does not say how its training data were split")
    return TrainingSplit(
        tuple(stored["external"]), stored["test_share"], stored["validation_share"], stored["split_sha256"]
    )


def run_split(run: Path) -> TrainingSplit:
    """Read the split of a run from its best checkpoint."""
    return split_of(read_checkpoint(run / BEST))


def split_of(best: Checkpoint) -> TrainingSplit:
    """How the training data of a checkpoint were split."""
    config = best.config
    return TrainingSplit(config.external, config.test_share, config.validation_share, best.provenance["split_sha256"])


def bundle_classes(bundle: Bundle) -> Classes:
    """The classes of a bundle, named as in a manifest. Raises StartError unless exactly one class has no lesion."""
    names = tuple(class_name(served.name) for served in bundle.identity.classes)
    without = [index for index, served in enumerate(bundle.identity.classes) if served.finding is None]
    if NO_TUMOUR in names:
        return Classes(names, names.index(NO_TUMOUR))
    if len(without) != 1:
        raise StartError("other-classes", f"none of the bundle's classes, {', '.join(names)}, is that of no tumour")
    return Classes(names, without[0])


def common_classes(checkpoints: Sequence[Checkpoint]) -> Classes:
    """The classes of runs' checkpoints. Raises StartError where they differ."""
    if len({checkpoint.classes for checkpoint in checkpoints}) > 1:
        raise StartError("other-classes", "the runs have different classes")
    return Classes.named(checkpoints[0].classes)


def truths(rows: Sequence[ManifestRow], classes: Classes) -> IntArray:
    """What each row shows, [n], as an index of the classes."""
    return np.array([classes.index(row.label) for row in rows], np.int64)


def select_pictures(
    rows: Sequence[ManifestRow],
    roles: Sequence[SplitRole] | None,
    role: SplitRole | None,
    deduplicated: bool,
    learned: frozenset[str] = frozenset(),
) -> list[int]:
    """The positions of the labelled rows with a role (None: all); with `deduplicated`, a single copy of each picture.

    What is among the `learned` pictures, with its patients, is left out. Raises StartError when nothing is left.
    """
    chosen = [i for i, row in enumerate(rows) if row.label and (role is None or (roles and roles[i] is role))]
    chosen = unseen(rows, chosen, learned)
    if deduplicated:
        chosen = deduplicate(rows, chosen)
    if not chosen:
        raise StartError("nothing-to-measure", f"no picture has the role {role}" if role else "no picture has a label")
    return chosen


def measure_bundle(
    folder: Path,
    data: Path,
    rows: Sequence[ManifestRow],
    precision: Precision = "int8",
    threads: int = 2,
    flip: bool = False,
) -> Measurement:
    """Classify every row as the worker would: preprocessing, engine, calibration, abstention."""
    return examine_bundle(folder, data, rows, precision, threads, flip)[0]


def examine_bundle(
    folder: Path,
    data: Path,
    rows: Sequence[ManifestRow],
    precision: Precision = "int8",
    threads: int = 2,
    flip: bool = False,
) -> tuple[Measurement, Evidence]:
    """Like `measure_bundle`, with the evidence.

    With `flip`, logits are averaged with those of the mirror image, even if the bundle does not ask for it.
    """
    bundle = load_bundle(folder)
    engine = OpenVinoEngine(bundle, precision, threads)
    root = manifest_path(data).parent
    size = bundle.preprocessing.size
    tensors = np.zeros((len(rows), 1, size, size), np.float32)
    boxes = np.full((len(rows), 4), np.nan, np.float32)
    readable = np.zeros(len(rows), bool)
    unreadable: Counter[str] = Counter()
    console = Console(stderr=True)
    files = series_files(data, rows)
    for members in track(series_of(rows), description="preprocessing", console=console, transient=True):
        own = [rows[i] for i in members]
        try:
            volume, slices = preprocess_together(root, own, files, bundle.preprocessing)
            check_accepted(volume, bundle)
        except NotAssessable as refusal:
            unreadable[refusal.reason] += len(own)
            continue
        tensors[members], readable[members] = volume.tensor[slices], True
        boxes[members] = [box_on(volume, k, row) for k, row in zip(slices, own, strict=True)]
    outputs = run_in_batches(engine, tensors, flip)
    pixels = (tensors[:, 0] * 255).round().astype(np.uint8)
    evidence = Evidence(tuple(rows), pixels, boxes, outputs.features, outputs.maps)
    return measure_outputs(bundle, outputs, rows, readable, unreadable), evidence


def measure_split(folder: Path, data: Path) -> dict[str, Measurement]:
    """Measure for the model card: the test part with both precisions, the external sets as served."""
    rows = read_manifest(data)
    roles, learned = read_split(folder).roles(rows), learned_pictures(folder)
    test = [rows[i] for i in select_pictures(rows, roles, SplitRole.TEST, True, learned)]
    result = {
        "test": measure_bundle(folder, data, test),
        "test-fp32": measure_bundle(folder, data, test, precision="fp32"),
    }
    if SplitRole.EXTERNAL in roles:
        external = [rows[i] for i in select_pictures(rows, roles, SplitRole.EXTERNAL, True, learned)]
        result["external"] = measure_bundle(folder, data, external)
    return result


def run_in_batches(engine: OpenVinoEngine, tensors: FloatArray, flip: bool = False) -> EngineOutputs:
    """Run the engine on [n, 1, s, s] with a progress bar; with `flip`, average with the mirror images' outputs."""
    starts = range(0, len(tensors), _BATCH)
    console = Console(stderr=True)
    batches = [
        _run(engine, tensors[start : start + _BATCH], flip)
        for start in track(starts, description="classifying", console=console, transient=True)
    ]
    return EngineOutputs(
        np.concatenate([batch.logits for batch in batches]),
        np.concatenate([batch.features for batch in batches]),
        np.concatenate([batch.maps for batch in batches]),
    )


def _run(engine: OpenVinoEngine, tensor: FloatArray, flip: bool) -> EngineOutputs:
    upright = engine.run(tensor)
    if not flip:
        return upright
    mirrored = engine.run(np.ascontiguousarray(tensor[..., ::-1]))
    # Features stay the upright picture's, on which the out-of-distribution limits were fitted.
    return EngineOutputs(
        _half_of(upright.logits + mirrored.logits), upright.features, _half_of(upright.maps + mirrored.maps[..., ::-1])
    )


def _half_of(total: FloatArray) -> FloatArray:
    return np.asarray(total / 2, np.float32)


def measure_outputs(
    bundle: Bundle, outputs: EngineOutputs, rows: Sequence[ManifestRow], readable: BoolArray, unreadable: Counter[str]
) -> Measurement:
    """The worker's answers to each slice, and to the slices of each patient together, from the engine's outputs."""
    if not isinstance(bundle.rule, TopSlices):
        return _measure_by_rule(bundle, outputs, rows, readable, unreadable)
    probabilities = slice_probabilities(outputs.logits, bundle.temperature)
    probabilities[~readable] = np.nan
    allowed = in_distribution(outputs.features, bundle) & readable
    needed = np.array([bundle.thresholds.needed(served.is_lesion) for served in bundle.identity.classes])
    filled = np.nan_to_num(probabilities)
    confident = filled.max(axis=1) >= needed[filled.argmax(axis=1)]
    classes = bundle_classes(bundle)
    truth = truths(rows, classes)
    groups = np.array([row.patient_group for row in rows], np.str_)
    in_limits = Predictions(classes, truth, probabilities, groups, allowed)
    patients = patient_predictions(in_limits, lambda p, allowed: series_answer(p, allowed, bundle))
    slices = Predictions(classes, truth, probabilities, groups, allowed & confident)
    return Measurement(slices, patients, unreadable, tuple(rows))


def _measure_by_rule(
    bundle: Bundle, outputs: EngineOutputs, rows: Sequence[ManifestRow], readable: BoolArray, unreadable: Counter[str]
) -> Measurement:
    """As `measure_outputs`, for a bundle of format 2; a patient's answer is the mean of those to the patient's series.

    The sequence of a picture is that of the manifest, as if its header said so.
    """
    classes, truth = bundle_classes(bundle), truths(rows, bundle_classes(bundle))
    judged = Outputs(rows, outputs.logits, np.asarray(in_distribution(outputs.features, bundle) & readable))
    patients: dict[tuple[str, int], list[int]] = {}
    for index, row in enumerate(rows):
        patients.setdefault((row.patient_group, int(truth[index])), []).append(index)

    def predictions(keys: Sequence[tuple[str, int]], members: Sequence[Sequence[int]]) -> Predictions:
        answers = [judged_answer(bundle, judged, own) for own in members]
        probabilities = np.array([own for own, _ in answers], np.float32).reshape(-1, len(classes))
        probabilities[[not readable[own].any() for own in members]] = np.nan
        groups, truths_of = np.array([group for group, _ in keys], np.str_), np.array([index for _, index in keys])
        return Predictions(
            classes, truths_of, probabilities, groups, np.array([sure for _, sure in answers], bool), lesion_first=True
        )

    singles = [(row.patient_group, int(index)) for row, index in zip(rows, truth, strict=True)]
    slices = predictions(singles, [[index] for index in range(len(rows))])
    cases = study_cases(bundle, judged, truth.tolist(), classes.no_tumour)
    studies = study_figures(cases, bundle.identity, bundle.study)
    of_patients = predictions(list(patients), list(patients.values()))
    return Measurement(slices, of_patients, unreadable, tuple(rows), studies)


def judged_answer(bundle: Bundle, outputs: Outputs, chosen: Sequence[int]) -> tuple[FloatArray, bool]:
    """The worker's rule of format 2 for these slices: class probabilities and whether any series is assessed.

    Series are judged apart, and their answers averaged; where no series has any, the probabilities are the network's
    own.
    """
    judged = judge_series(bundle, outputs, chosen).values()
    answers = [series.decision.probabilities for series in judged if series.decision is not None]
    if not answers:
        answers = [softmax(split_logits(outputs.logits[list(chosen)], bundle.decision.layout)[0]).mean(axis=0)]
    assessed = any(series.decision is not None and series.refusal is None for series in judged)
    return np.asarray(np.mean(answers, axis=0), np.float32), assessed


def series_answer(probabilities: FloatArray, allowed: BoolArray, bundle: Bundle) -> tuple[FloatArray, bool]:
    """The worker's series rule (`aggregate`): class probabilities and whether the series is assessed.

    If it is not because too few slices are in distribution, the probabilities are those of all readable slices.
    """
    readable = np.isfinite(probabilities).all(axis=1)
    if not readable.any():
        return np.full(probabilities.shape[1], np.nan, np.float32), False
    enough = bool(allowed.any() and allowed.mean() >= bundle.thresholds.minimum_in_distribution)
    tumour = lesion_probability(np.nan_to_num(probabilities), bundle.identity.classes)
    deciding = deciding_slices(tumour, np.asarray(allowed if enough else readable), bundle)
    means = probabilities[deciding].mean(axis=0)
    best = bundle.identity.classes[int(means.argmax())]
    return means, bool(enough and means.max() >= bundle.thresholds.needed(best.is_lesion))


def examine_runs(
    runs: Sequence[Path], data: Path, rows: Sequence[ManifestRow], chosen: Sequence[int], flip: bool = False
) -> tuple[Measurement, Evidence]:
    """Classify with a run's best checkpoint by torch, or with several as an ensemble (the mean of their logits).

    No abstention; a patient's answer is the mean over slices; the temperature is fitted on the validation part. The
    evidence has the features of the first run. Raises StartError for runs with different splits.
    """
    checkpoints = [read_checkpoint(run / BEST) for run in runs]
    splits, classes = [split_of(checkpoint) for checkpoint in checkpoints], common_classes(checkpoints)
    roles = splits[0].roles(rows)
    if any(split.roles(rows) != roles for split in splits):
        raise StartError("other-split", "an ensemble's runs must have the same patients in their test part")
    pictures = load_pictures(data, rows, read_preprocessing(), classes=classes)
    validation = pictures.select(select_pictures(rows, roles, SplitRole.VALIDATION, deduplicated=True))
    selected = pictures.select(chosen)
    parts = [validation.pixels, selected.pixels]
    by_run = [run_outputs(checkpoint, parts, flip) for checkpoint in checkpoints]
    on_validation, on_selected = ([outputs[k] for outputs in by_run] for k in range(2))
    temperature = fit_temperature(_mean_logits(on_validation), validation.labels.tolist(), classes)
    probabilities = slice_probabilities(_mean_logits(on_selected), temperature)
    groups = np.array([row.patient_group for row in selected.rows], np.str_)
    slices = Predictions(classes, selected.labels.numpy(), probabilities, groups, np.ones(len(groups), bool))
    maps = np.mean([outputs.maps for outputs in on_selected], axis=0)
    pixels, boxes = selected.pixels[:, 0].numpy(), selected.boxes.numpy()
    evidence = Evidence(selected.rows, pixels, boxes, on_selected[0].features, maps)
    return Measurement(slices, patient_predictions(slices, lambda p, _: (p.mean(axis=0), True))), evidence


def _mean_logits(outputs: Sequence[EngineOutputs]) -> FloatArray:
    return np.asarray(np.mean([run.logits for run in outputs], axis=0), np.float32)


def run_outputs(best: Checkpoint, pixels: Sequence[torch.Tensor], flip: bool) -> list[EngineOutputs]:
    """The classes' outputs of a run's best checkpoint for each block of pictures, uint8 [n, 1, s, s]."""
    torch.set_num_threads(best.config.threads)
    model = best.classifier()
    return [_of_classes(model_outputs(model, block, flip), len(best.classes)) for block in pixels]


def _of_classes(outputs: EngineOutputs, classes: int) -> EngineOutputs:
    return EngineOutputs(outputs.logits[:, :classes], outputs.features, outputs.maps[:, :classes])


@torch.no_grad()
def model_outputs(model: Classifier, pixels: torch.Tensor, flip: bool = False) -> EngineOutputs:
    """The outputs of a trained network for uint8 pictures [n, 1, s, s], float32 arithmetic on the CPU."""
    model.cpu().eval()
    batches = []
    for batch in torch.split(pixels, _BATCH):
        image = batch.float().div(255)
        logits, features, maps = model(image)
        if flip:
            mirrored = model(image.flip(-1))
            logits, maps = (logits + mirrored.logits) / 2, (maps + mirrored.maps.flip(-1)) / 2
        batches.append((logits.numpy(), features.numpy(), maps.numpy()))
    return EngineOutputs(*(np.concatenate(kind) for kind in zip(*batches, strict=True)))


def fit_temperature(logits: FloatArray, labels: Sequence[int], classes: Classes) -> float:
    """The temperature with the lowest negative log likelihood on held-out logits [n, classes] (Guo et al. 2017).

    The likelihood of a tumour of unknown kind is the probability of any tumour.
    """
    candidates = np.geomspace(0.25, 8.0, 141)
    losses = [
        -np.log(np.maximum(_of_truth(slice_probabilities(logits, float(t)), np.array(labels), classes), 1e-12)).mean()
        for t in candidates
    ]
    return float(round(candidates[int(np.argmin(losses))], 4))


def _of_truth(probabilities: FloatArray, truth: IntArray, classes: Classes) -> FloatArray:
    """The probability [n] given to each picture's truth."""
    of_class = probabilities[np.arange(len(truth)), np.minimum(truth, len(classes) - 1)]
    return np.where(truth == classes.any_tumour, 1 - probabilities[:, classes.no_tumour], of_class)
