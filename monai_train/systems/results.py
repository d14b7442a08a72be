"""The stored result of a measured row: a JSON file and a PNG each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from monai_train.data.manifest import ManifestRow
from monai_train.evaluation.metrics import accuracy, bootstrap_interval
from monai_train.systems.definitions import Protocol, Task
from monai_train.systems.fit import FitResult
from monai_train.systems.protocols import FOUR, LABELS, ProtocolSplit, count_known, task_class
from worker.files import write_atomically


class RowResult(BaseModel):
    """A network on a protocol. `inputs` identifies everything that the figures depend on, except the fraction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    network: str
    task: Task
    protocol: Protocol
    fraction: float
    inputs: str
    weights: str  # what the network started from, for the table
    commit: str
    device: str
    epochs: int
    parameters: int
    n_train: int
    n_test: int
    n_test_known: int  # of these, how many have their picture or patient in training
    patients_test: int
    training_accuracy: float | None
    accuracy: float | None  # None if the loss was not a number
    accuracy_ci: tuple[float, float] | None
    balanced_accuracy: float | None
    macro_f1: float | None
    labels: tuple[str, ...]
    confusion_matrix: list[list[int]]
    curves: list[dict[str, float]]
    truths: list[int]
    patient_numbers: list[int]
    probabilities: list[list[float]]
    seconds: float
    fault: str | None = None


def answer_figures(
    probabilities: npt.NDArray[Any], truths: Sequence[int], patients: Sequence[int], task: Task
) -> dict[str, Any]:
    """Accuracy with its patient bootstrap interval, balanced accuracy, macro F1 and the confusion matrix."""
    predicted, truth = probabilities.argmax(axis=1), np.array(truths)
    size = len(LABELS[task])
    confusion = np.bincount(truth * size + predicted, minlength=size * size).reshape(size, size)
    right, support, called = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    present = support > 0
    # Both tasks in the classes of `metrics`: a tumour of a yes/no set is a tumour of unknown kind.
    as_truth = np.where(truth == 0, FOUR.any_tumour, FOUR.no_tumour) if task is Task.YES_NO else truth
    as_answer = np.where(predicted == 0, 0, FOUR.no_tumour) if task is Task.YES_NO else predicted
    groups = np.array([str(patient) for patient in patients])
    interval = bootstrap_interval(as_truth, as_answer, groups, accuracy, FOUR)
    return {
        "accuracy": float(right.sum() / len(truth)),
        "accuracy_ci": tuple(interval) if interval else None,
        "balanced_accuracy": float((right[present] / support[present]).mean()),
        "macro_f1": float((2 * right[present] / (support + called)[present]).mean()),
        "confusion_matrix": confusion.tolist(),
    }


def result_fields(
    split: ProtocolSplit, rows: Sequence[ManifestRow], task: Task, fitted: FitResult | None
) -> dict[str, Any]:
    """The fields of a RowResult that the split and the answers decide; None or empty if `fitted` is None."""
    tested = [rows[i] for i, _ in split.test]
    numbers = {group: n for n, group in enumerate(sorted({row.patient_group for row in tested}))}
    patients = [numbers[row.patient_group] for row in tested]
    truths = [task_class(row, task) or 0 for row in tested]
    content: dict[str, Any] = {
        "labels": LABELS[task],
        "n_train": len(split.train),
        "n_test": len(tested),
        "n_test_known": count_known(split, rows),
        "patients_test": len(numbers),
        "truths": truths,
        "patient_numbers": patients,
    }
    if fitted is None:
        names = ("training_accuracy", "accuracy", "accuracy_ci", "balanced_accuracy", "macro_f1")
        return {
            **content,
            **dict.fromkeys(names),
            "confusion_matrix": [],
            "curves": [],
            "probabilities": [],
            "seconds": 0.0,
        }
    probabilities = fitted.probabilities.numpy()
    return {
        **content,
        **answer_figures(probabilities, truths, patients, task),
        "training_accuracy": fitted.curves[-1].accuracy,
        "curves": fitted.curves_json(),
        "probabilities": np.round(probabilities.astype(float), 5).tolist(),
        "seconds": fitted.seconds,
    }


def ensemble_result(key: str, results: Sequence[RowResult]) -> RowResult | None:
    """The mean of several networks' answers to the same test; None if any is missing, failed or had another test."""
    if not results or any(result.fault or result.truths != results[0].truths for result in results):
        return None
    first = results[0]
    mean = np.mean([result.probabilities for result in results], axis=0)
    return first.model_copy(
        update={
            **answer_figures(mean, first.truths, first.patient_numbers, first.task),
            "key": key,
            "network": "ensemble of " + ", ".join(result.network for result in results),
            "weights": "",
            "training_accuracy": None,
            "curves": [],
            "probabilities": np.round(mean, 5).tolist(),
            "parameters": sum(result.parameters for result in results),
            "seconds": sum(result.seconds for result in results),
        }
    )


def write_result(result: RowResult, folder: Path) -> None:
    """Write FOLDER/<key>.json, complete or not at all, and FOLDER/<key>.png."""
    path = folder / f"{result.key}.json"
    write_atomically(path, result.model_dump_json(indent=1) + "\n")
    if result.curves:
        draw_result(result, path.with_suffix(".png"))


def read_result(folder: Path, key: str) -> RowResult | None:
    """The stored row; None if there is none or another version wrote it."""
    try:
        return RowResult.model_validate_json((folder / f"{key}.json").read_text())
    except (OSError, ValidationError):
        return None


def draw_result(result: RowResult, path: Path) -> None:
    """Draw the learning curves and the confusion matrix of a row as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    figure.suptitle(f"{result.network}, {result.protocol}: {result.n_test} test pictures, {result.n_test_known} known")
    loss, accuracy, matrix = figure.subplots(1, 3)
    epochs = [point["epoch"] for point in result.curves]
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        axes.plot(epochs, [point[name] for point in result.curves], color="#0072b2", label="training")
        axes.plot(epochs, [point["test_" + name] for point in result.curves], "--", color="#d55e00", label="test")
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
    accuracy.set_ylim(0, 1.02)
    loss.legend(frameon=False)
    confusion = np.array(result.confusion_matrix)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    matrix.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(confusion):
        matrix.text(j, i, str(count), ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black")
    ticks = range(len(result.labels))
    matrix.set_xticks(ticks, result.labels, rotation=30)
    matrix.set_yticks(ticks, result.labels)
    matrix.set(xlabel="answer", ylabel="truth")
    figure.savefig(path, dpi=110)
