"""`monai-train crossval`: nested patient-grouped stratified k-fold with out-of-fold temperature, resumable per fold.

RUN/fold-0 ... are runs like any other; RUN/folds.json holds the settings they belong to; RUN/predictions.csv and
RUN/report.json hold the answer to every picture by the model that was not trained on its patient; RUN/report.html
shows them.

The outer folds are the test parts. Within each, a further fold of the remaining patients is the validation part, by
which the epoch is selected. The temperature of a fold is fitted on the other folds' out-of-fold logits: no figure uses
anything that was fitted on its own patients.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from monai_train.config import TrainConfig
from monai_train.data.dataset import load_pictures, read_preprocessing
from monai_train.data.labels import Classes
from monai_train.data.manifest import ManifestRow, data_sha256, deduplicate, folder_name, read_manifest
from monai_train.data.patients import SplitRole, split_classes, split_roles
from monai_train.evaluation.cohorts import evaluation_json
from monai_train.evaluation.evaluate import Measurement, fit_temperature, run_outputs, truths
from monai_train.evaluation.intervals import Estimate, estimates
from monai_train.evaluation.metrics import IntArray, Predictions, level_figures, patient_predictions
from monai_train.evaluation.pages.crossval_page import write_crossval_page
from monai_train.evaluation.report_files import write_predictions
from monai_train.training.checkpoint import BEST, current_commit, read_checkpoint
from monai_train.training.train import DivergedError, train
from worker.cluster import Cluster, Lost
from worker.errors import StartError
from worker.files import open_atomically
from worker.inference.aggregate import slice_probabilities
from worker.pixels.arrays import FloatArray
from worker.wording import counted


def assign_folds(labels: Sequence[int], groups: Sequence[str], folds: int, seed: int = 0) -> IntArray:
    """The fold of every picture, [n]; a group is in a single fold. A picture without a label has a label below 0.

    Stratified: the folds' numbers of groups of a class (a group's commonest label) differ by at most 1.
    Raises StartError if there are fewer groups than folds.
    """
    names, index = np.unique(np.array(groups), return_inverse=True)
    if len(names) < folds:
        raise StartError("too-few-patients", f"{counted(len(names), 'patient')} cannot be split into {folds} folds")
    counts = np.zeros((len(names), max(0, *labels) + 1), np.int64)
    labelled = np.array(labels) >= 0
    np.add.at(counts, (index[labelled], np.array(labels)[labelled]), 1)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    by_class = shuffled[np.argsort(counts.argmax(axis=1)[shuffled], kind="stable")]
    fold_of = np.empty(len(names), np.int64)
    fold_of[by_class] = np.arange(len(names)) % folds
    return np.asarray(fold_of[index])


def fold_roles(
    rows: Sequence[ManifestRow], external: Sequence[str], folds: int, fold: int, seed: int
) -> tuple[SplitRole, ...]:
    """The role of every row if `fold` is the test part; the external sets and their patients are never trained on."""
    roles = list(split_roles(rows, external, 0.0, 0.0))
    labels = truths(rows, split_classes(rows, roles)).tolist()
    inside = [i for i, role in enumerate(roles) if role is SplitRole.TRAIN]
    outer = assign_folds([labels[i] for i in inside], [rows[i].patient_group for i in inside], folds, seed)
    rest = [i for i, own in zip(inside, outer, strict=True) if own != fold]
    # As many inner folds as outer ones; only the first is used, for selecting the epoch.
    inner = assign_folds([labels[i] for i in rest], [rows[i].patient_group for i in rest], folds, seed + 1 + fold)
    for i, own in zip(inside, outer, strict=True):
        roles[i] = SplitRole.TEST if own == fold else SplitRole.TRAIN
    for i, own in zip(rest, inner, strict=True):
        roles[i] = SplitRole.VALIDATION if own == 0 else SplitRole.TRAIN
    return tuple(roles)


def cross_validate(
    data: Path,
    run: Path,
    config: TrainConfig,
    folds: int,
    dataset: str | None = None,
    weights: Path | None = None,
    console: Console | None = None,
    flip: bool = False,
    cluster: Cluster | None = None,
) -> dict[str, Any]:
    """Train and evaluate every fold, resuming RUN where it stopped; writes and returns the content of RUN/report.json.

    With `dataset`, all data are used for training but only its pictures are evaluated. With `flip`, an answer is the
    mean over the picture and its mirror image, as in the worker. On a `cluster`, whose workers see DATA and RUN at the
    same paths, a fold is a task.

    Raises StartError for unsuitable data and a RUN with other settings, and DivergedError from training.
    """
    console = console or Console(stderr=True)
    rows = read_manifest(data)
    _claim(run, config, {"folds": folds, "data_sha256": data_sha256(rows), **({"flip": True} if flip else {})})
    if cluster is not None:
        _train_folds(cluster, data, run, config, folds, weights, console, flip)
    chosen: list[list[int]] = []
    logits: list[FloatArray] = []
    for fold in range(folds):
        roles = fold_roles(rows, config.external, folds, fold, config.seed)
        test = [i for i in deduplicate(rows, _with(roles, SplitRole.TEST)) if dataset in (None, rows[i].dataset)]
        if not test:
            raise StartError("nothing-to-measure", f"fold {fold} has no picture to evaluate")
        console.print(f"fold {fold + 1} of {folds}: {counted(len(test), 'picture')} to evaluate")
        chosen.append(test)
        logits.append(_out_of_fold(data, rows, roles, run / f"fold-{fold}", config, weights, console, flip)[test])
    facts = (
        ("network", config.network),
        ("folds", f"{folds}, split by patient; within each, as many for selecting the epoch"),
        ("evaluated", dataset or "all data except the external"),
        ("never trained on", ", ".join(config.external) or "nothing"),
        ("epochs, seed", f"{config.epochs}, {config.seed}"),
        ("test-time flip", "yes" if flip else "no"),
        ("data", data_sha256(rows)),
        ("commit", current_commit()),
    )
    return _evaluate(run, folder_name(data), rows, chosen, logits, facts, split_classes(rows, roles))


@dataclass(frozen=True, slots=True)
class Fold:
    """A fold to train, as a Dask worker gets it; paths are absolute."""

    data: Path
    run: Path
    config: TrainConfig
    folds: int
    number: int
    weights: Path | None
    flip: bool


def train_fold(fold: Fold) -> Lost | None:
    """Train a fold and store its logits, resuming where it stopped; what hindered it, if anything did."""
    try:
        rows = read_manifest(fold.data)
        roles = fold_roles(rows, fold.config.external, fold.folds, fold.number, fold.config.seed)
        run, console = fold.run / f"fold-{fold.number}", Console(quiet=True)
        _out_of_fold(fold.data, rows, roles, run, fold.config, fold.weights, console, fold.flip)
    except DivergedError as error:
        return Lost("diverged", str(error))
    except StartError as error:
        return Lost(error.reason, error.detail)
    except Exception as error:  # a task's boundary: the other folds go on
        return Lost("training-fault", f"{type(error).__name__}: {error}")
    return None


def _train_folds(
    cluster: Cluster,
    data: Path,
    run: Path,
    config: TrainConfig,
    folds: int,
    weights: Path | None,
    console: Console,
    flip: bool,
) -> None:
    """Train all folds. Raises StartError, once the others are trained, for a fold that could not be."""
    weights = weights and weights.absolute()
    tasks = [Fold(data.absolute(), run.absolute(), config, folds, fold, weights, flip) for fold in range(folds)]
    faults = []
    for task, fault in cluster.run(train_fold, tasks, attempts=3):
        console.print(f"fold {task.number + 1} of {folds}: {'trained' if fault is None else fault.detail}")
        faults += [] if fault is None else [StartError(fault.reason, f"fold {task.number + 1}: {fault.detail}")]
    if faults:
        raise faults[0]


def _claim(run: Path, config: TrainConfig, settings: dict[str, Any]) -> None:
    """Reserve RUN for these folds, configuration and data. Raises StartError if it belongs to others."""
    path = run / "folds.json"
    run.mkdir(parents=True, exist_ok=True)
    if path.exists():
        stored = json.loads(path.read_text())
        # Keys that are newer than the run have their defaults, so that a run of an earlier version resumes.
        if TrainConfig.model_validate(stored.pop("config")) != config or stored != settings:
            raise StartError("other-config", f"{run} holds a cross-validation with other settings: use a new --run")
    path.write_text(json.dumps({**settings, "config": config.model_dump(mode="json")}, indent=2) + "\n")


def _out_of_fold(
    data: Path,
    rows: Sequence[ManifestRow],
    roles: Sequence[SplitRole],
    run: Path,
    config: TrainConfig,
    weights: Path | None,
    console: Console,
    flip: bool,
) -> FloatArray:
    """Logits [rows, classes] of the fold's own pictures, NaN for all others; trains if they are not stored yet."""
    stored = run / "out-of-fold.npy"
    if not stored.exists():
        train(data, run, config, weights, console=console, roles=roles)
        own = _with(roles, SplitRole.TEST)
        pixels = load_pictures(data, rows, read_preprocessing()).select(own).pixels
        outputs = run_outputs(read_checkpoint(run / BEST), [pixels], flip)[0].logits
        logits = np.full((len(rows), outputs.shape[1]), np.nan, np.float32)
        logits[own] = outputs
        with open_atomically(stored) as stream:
            np.save(stream, logits)
    stored_logits: FloatArray = np.load(stored)
    return stored_logits


def _evaluate(
    run: Path,
    data: str,
    rows: Sequence[ManifestRow],
    chosen: Sequence[list[int]],
    logits: Sequence[FloatArray],
    facts: Sequence[tuple[str, str]],
    classes: Classes,
) -> dict[str, Any]:
    """Calibrate each fold by the others, pool the answers, measure and write them."""
    tests = [[rows[i] for i in test] for test in chosen]
    temperatures = out_of_fold_temperatures(logits, [truths(test, classes).tolist() for test in tests], classes)
    probabilities = [slice_probabilities(fold, t) for fold, t in zip(logits, temperatures, strict=True)]
    all_rows = [row for test in tests for row in test]
    slices = _predictions(all_rows, np.concatenate(probabilities), classes)
    pooled = Measurement(slices, _of_patients(slices))
    report = evaluation_json(pooled, all_rows)
    report["estimates"] = {
        level: {name: estimate.to_json() for name, estimate in estimates(answers).items()}
        for level, answers in (("slice", pooled.slices), ("patient", pooled.patients))
    }
    report["folds"] = [
        _fold_json(_predictions(test, of_fold, classes), temperature)
        for test, of_fold, temperature in zip(tests, probabilities, temperatures, strict=True)
    ]
    write_predictions(run / "predictions.csv", all_rows, slices)
    (run / "report.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    write_crossval_page(run, data, facts, all_rows, pooled, report["folds"])
    return report


def out_of_fold_temperatures(
    logits: Sequence[FloatArray], labels: Sequence[Sequence[int]], classes: Classes
) -> list[float]:
    """For each fold, the temperature fitted on the logits [n, classes] of all other folds."""
    fitted = []
    for fold in range(len(logits)):
        others = [k for k in range(len(logits)) if k != fold]
        shown = [label for k in others for label in labels[k]]
        fitted.append(fit_temperature(np.concatenate([logits[k] for k in others]), shown, classes))
    return fitted


def _predictions(rows: Sequence[ManifestRow], probabilities: FloatArray, classes: Classes) -> Predictions:
    groups = np.array([row.patient_group for row in rows], np.str_)
    return Predictions(classes, truths(rows, classes), probabilities, groups, np.ones(len(rows), bool))


def _of_patients(slices: Predictions) -> Predictions:
    return patient_predictions(slices, lambda p, _: (p.mean(axis=0), True))


def _fold_json(slices: Predictions, temperature: float) -> dict[str, Any]:
    levels = {"slice": slices, "patient": _of_patients(slices)}
    return {"temperature": temperature, **{level: level_figures(answers) for level, answers in levels.items()}}


def _with(roles: Sequence[SplitRole], role: SplitRole) -> list[int]:
    return [i for i, own in enumerate(roles) if own is role]


def _with_interval(figures: dict[str, Any]) -> str:
    low, high = figures["balanced_accuracy_ci"] or (None, None)
    return f"{Estimate(figures['balanced_accuracy'], low, high, 0).text(in_percent=True)} (n={figures['n']})"


def fold_table(report: dict[str, Any]) -> Table:
    """The balanced accuracy of each fold, mean and standard deviation over the folds, and of all answers pooled."""
    table = Table(title="balanced accuracy of each fold", title_justify="left")
    for name in ("fold", "slices", "patients", "temperature"):
        table.add_column(name)
    folds = report["folds"]
    for number, fold in enumerate(folds, 1):
        cells = [_with_interval(fold[k]) for k in ("slice", "patient")]
        table.add_row(str(number), *cells, f"{fold['temperature']:.2f}")
    spreads = []
    for level in ("slice", "patient"):
        values = [100 * fold[level]["balanced_accuracy"] for fold in folds]
        spreads.append(f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} %")
    table.add_row("mean ± sd", *spreads, "")
    pooled = [Estimate(**report["estimates"][level]["balanced_accuracy"]) for level in ("slice", "patient")]
    cells = [f"{estimate.text(in_percent=True)} (n={estimate.n})" for estimate in pooled]
    table.add_row("pooled (95 %)", *cells, "")
    return table
