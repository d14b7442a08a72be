"""The model that is evaluated, the cohorts of pictures it is evaluated on, and its answers to each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_train.data.manifest import ManifestRow
from monai_train.data.patients import PREFIX, SplitRole, learned_pictures, split_sha256, unseen
from monai_train.evaluation import plots
from monai_train.evaluation.evaluate import (
    Evidence,
    Measurement,
    TrainingSplit,
    examine_bundle,
    examine_runs,
    read_split,
    run_split,
    select_pictures,
)
from monai_train.evaluation.intervals import Estimate, estimates
from monai_train.evaluation.metrics import Predictions, binary_figures, level_figures
from worker.errors import StartError
from worker.inference.bundle import load_bundle
from worker.inference.engines import Precision
from worker.wording import counted

COINCIDE = 0.9  # from this balanced accuracy of a guess, a figure measures what the guess is made from
LEVELS = ("lower third", "middle third", "upper third")


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """The model that is evaluated: its name, facts and split; its run folders, or its bundle."""

    name: str
    facts: tuple[tuple[str, str], ...]
    split: TrainingSplit | None
    runs: tuple[Path, ...] = ()
    bundle: Path | None = None
    precision: Precision = "int8"
    flip: bool = False
    learned: frozenset[str] = frozenset()  # see `learned_pictures`

    def examine(self, data: Path, rows: Sequence[ManifestRow], chosen: Sequence[int]) -> tuple[Measurement, Evidence]:
        """Its answers to these rows of the manifest, and the evidence."""
        if self.bundle is None:
            return examine_runs(self.runs, data, rows, chosen, self.flip)
        return examine_bundle(self.bundle, data, [rows[i] for i in chosen], self.precision, flip=self.flip)


@dataclass(frozen=True, slots=True)
class Cohort:
    """A set of pictures to measure, as positions in the manifest; `leaky` if training knew its patients."""

    key: str
    title: str
    note: str
    leaky: bool
    chosen: list[int]


@dataclass(frozen=True, slots=True)
class CohortResult:
    """The model's answers to a cohort, and their figures."""

    cohort: Cohort
    measurement: Measurement
    evidence: Evidence
    slices: dict[str, Estimate]
    patients: dict[str, Estimate]


def evaluated_bundle(folder: Path, precision: Precision, flip: bool) -> EvaluatedModel:
    """A bundle to evaluate. Raises StartError if it is damaged."""
    load_bundle(folder)
    described = json.loads((folder / "worker.json").read_text())
    keys = ("name", "version", "family", "commit", "training_data_sha256", "temperature")
    facts = [(key.replace("_", " "), str(described.get(key, "unknown"))) for key in keys]
    mirrored = flip or described.get("mirror", False)
    facts += [("engine", f"OpenVINO {precision}"), ("test-time flip", "yes" if mirrored else "no")]
    try:
        split = read_split(folder)
    except StartError:
        split = None  # another program's bundle: what it was trained on is unknown
    name = f"{described['name']} {described['version']}"
    return EvaluatedModel(name, tuple(facts), split, (), folder, precision, flip, learned_pictures(folder))


def evaluated_runs(runs: Sequence[Path], flip: bool) -> EvaluatedModel:
    """A run to evaluate, or several as an ensemble."""
    name = runs[0].name if len(runs) == 1 else "ensemble of " + ", ".join(run.name for run in runs)
    facts = (
        ("engine", "torch, best checkpoint"),
        ("networks", str(len(runs))),
        ("test-time flip", "yes" if flip else "no"),
    )
    return EvaluatedModel(name, facts, run_split(runs[0]), tuple(runs), None, "fp32", flip)


@dataclass(frozen=True, slots=True)
class MeasuredPart:
    """The part of a folder that is measured, as positions in the manifest, and why this part, as a sentence."""

    name: str
    note: str
    chosen: list[int]

    def to_json(self, rows: Sequence[ManifestRow]) -> dict[str, Any]:
        """Plain values; `of` counts all pictures of the folder."""
        return {"name": self.name, "note": self.note, "n": len(self.chosen), "of": len(rows)}


def measured_part(
    model: EvaluatedModel, rows: Sequence[ManifestRow], role: str | None = None, deduplicated: bool = False
) -> MeasuredPart:
    """The part with this role, `all`, or by default what the model never learned from.

    That is the test part of the folder that it was trained on. Of another folder, it is what is not among the pictures
    that the bundle lists, nor of their patients; all, if the bundle lists none of them.
    Raises StartError when nothing is left, and for a role where the model's split is unknown.
    """
    if role is not None and role != "all":
        if model.split is None:
            raise StartError("no-split", f"{model.name} does not say how its training data were split")
        known = model.learned if role in (SplitRole.TEST, SplitRole.EXTERNAL) else frozenset()
        chosen = select_pictures(rows, model.split.roles(rows), SplitRole(role), deduplicated, known)
        return MeasuredPart(role, f"the pictures with the role {role} in the model's split", chosen)
    everything = select_pictures(rows, None, None, deduplicated)
    if role == "all":
        return MeasuredPart("all", "all pictures, as requested, also those of the model's training", everything)
    if model.split is not None and split_sha256(rows, model.split.roles(rows)) == model.split.split_sha256:
        chosen = select_pictures(rows, model.split.roles(rows), SplitRole.TEST, deduplicated, model.learned)
        return MeasuredPart("test", "the test part: patients that training never saw", chosen)
    learned = sum(row.source_sha256[:PREFIX] in model.learned for row in rows)
    if not learned:
        by_hash = "none of them is among those that the model learned from, by their hashes"
        note = by_hash if model.learned else "whether training used some of them is unknown"
        return MeasuredPart("all", f"all pictures: {note}", everything)
    left = unseen(rows, everything, model.learned)
    if not left:
        raise StartError(
            "nothing-to-measure", "every picture, or its patient, was in training: --role all measures them"
        )
    note = f"{counted(learned, 'picture')} of training left out, with all of the same patients"
    return MeasuredPart("unseen", note, left)


def group_figures(predictions: Predictions, rows: Sequence[ManifestRow]) -> dict[str, dict[str, Any]]:
    """Figures of slices by sequence, slice level and source; a kind of group is absent where nothing is known of it."""
    kinds = {
        "sequence": [row.sequence for row in rows],
        "slice_level": [slice_level(row) for row in rows],
        "source": [row.dataset for row in rows],
    }
    found: dict[str, dict[str, Any]] = {}
    for kind, names in kinds.items():
        if not any(names):
            continue
        values = np.array(names)
        found[kind] = {name or "unknown": _figures(predictions.select(values == name)) for name in sorted(set(names))}
    return found


def _figures(predictions: Predictions) -> dict[str, Any]:
    levels = level_figures(predictions)
    chosen = ("patients", "balanced_accuracy", "balanced_accuracy_ci", "per_class", "confusion_matrix", "ece")
    return binary_figures(predictions) | {key: levels[key] for key in chosen}


def slice_level(row: ManifestRow) -> str:
    """The third of its series that an axial slice is in, "" where that is unknown."""
    if row.slice_number is None or not row.slice_count or row.plane not in ("axial", ""):
        return ""
    return LEVELS[min(2, 3 * (row.slice_number - 1) // row.slice_count)]


def confounded(predictions: Predictions, rows: Sequence[ManifestRow]) -> list[str]:
    """Sentences on figures that measure the source or the sequence: where one of them nearly tells the truth.

    The sources of a single patient each, as folders by patient are, count together.
    """
    truth, classes = predictions.truth, predictions.classes
    lesions = np.flatnonzero((truth != classes.no_tumour) & (truth != classes.any_tumour))
    questions = (
        ("tumour or none", np.arange(len(truth)), truth != classes.no_tumour),
        ("the kind of a tumour", lesions, truth[lesions]),
    )
    warnings = []
    patients = Counter(dataset for dataset, _ in {(row.dataset, row.patient_group) for row in rows})
    sources = [row.dataset if patients[row.dataset] > 1 else "" for row in rows]
    for name, column in (("source", sources), ("sequence", [row.sequence for row in rows])):
        values = np.array(column, np.str_)
        for question, chosen, labels in questions:
            share = guessed(values[chosen], labels)
            if share >= COINCIDE:
                warnings.append(
                    f"{question} follows from the {name} alone in {100 * share:.0f} % (classes weighted equally): "
                    f"the figure measures the {name}"
                )
    return warnings


def guessed(values: npt.NDArray[np.str_], labels: npt.NDArray[Any]) -> float:
    """The balanced accuracy of the best guess of the labels from the values; 0 with a single label or value."""
    names, own = np.unique(values, return_inverse=True)
    kinds, shown = np.unique(labels, return_inverse=True)
    if len(kinds) < 2 or len(names) < 2:
        return 0.0
    counts = np.zeros((len(names), len(kinds)))
    np.add.at(counts, (own, shown), 1)
    return float((counts / counts.sum(axis=0)).max(axis=1).sum() / len(kinds))


def evaluation_json(measurement: Measurement, rows: Sequence[ManifestRow]) -> dict[str, Any]:
    """The content of `Measurement.to_json`, with figures by group and warnings; `rows` are those of the slices."""
    return {
        **measurement.to_json(),
        "groups": group_figures(measurement.slices, rows),
        "warnings": confounded(measurement.slices, rows),
    }


def cohorts(model: EvaluatedModel, rows: Sequence[ManifestRow]) -> list[Cohort]:
    """The cohorts that a report has a section for.

    If the rows are not those of the model's split, there is a single cohort: see `measured_part`.
    """
    split = model.split
    if split is None or split_sha256(rows, split.roles(rows)) != split.split_sha256:
        part = measured_part(model, rows)
        title = "All pictures" if part.name == "all" else "Pictures that training never used"
        note = f"Not the folder that the model was trained on; {part.note}."
        return [Cohort(part.name, title, note, False, part.chosen)]
    roles = split.roles(rows)
    note = "Patients and pictures that training never used; a single image per picture, conflicting labels excluded."
    chosen = select_pictures(rows, roles, SplitRole.TEST, True, model.learned)
    found = [Cohort("test", "Split by patient", note, False, chosen)]
    if SplitRole.EXTERNAL in roles:
        note = f"Data of {', '.join(split.external)}, never trained on; patients known from training are excluded."
        chosen = select_pictures(rows, roles, SplitRole.EXTERNAL, True, model.learned)
        found.append(Cohort("external", "External set", note, False, chosen))
    official = [i for i, row in enumerate(rows) if row.split == "test"]
    if official:
        found.append(Cohort("official", "Official split: LEAKY", _leak_note(roles, official), True, official))
    return found


def _leak_note(roles: Sequence[SplitRole], official: Sequence[int]) -> str:
    known = sum(roles[i] in (SplitRole.TRAIN, SplitRole.VALIDATION) for i in official)
    return (
        f"The test folder as split by its authors, every copy counted. {known} of these {len(official)} images were in "
        "this model's own training or validation: the figures measure memory and are here only because others publish "
        "such figures."
    )


def measure_cohort(model: EvaluatedModel, data: Path, rows: Sequence[ManifestRow], cohort: Cohort) -> CohortResult:
    """Classify a cohort and compute its figures."""
    measurement, evidence = model.examine(data, rows, cohort.chosen)
    return CohortResult(cohort, measurement, evidence, estimates(measurement.slices), estimates(measurement.patients))


def cohort_plots(result: CohortResult) -> dict[str, bytes]:
    """The charts of a cohort, PNG by name."""
    slices = result.measurement.slices
    charts = {
        "confusion-slices": plots.confusion_chart(slices),
        "confusion-patients": plots.confusion_chart(result.measurement.patients),
        "reliability": plots.reliability_chart(slices, result.slices["ece"]),
        "risk-coverage": plots.risk_coverage_chart(slices),
    }
    if plots.binary_curves(slices):
        charts["roc"] = plots.roc_chart(slices, result.slices)
        charts["precision-recall"] = plots.precision_recall_chart(slices, result.slices)
    return charts
