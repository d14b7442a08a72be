"""The model that is evaluated, the cohorts of pictures it is evaluated on, and its answers to each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_train.data.manifest import ManifestRow
from monai_train.data.patients import SplitRole, split_sha256
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
from worker.errors import StartError
from worker.inference.bundle import load_bundle
from worker.inference.engines import Precision


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
    return EvaluatedModel(name, tuple(facts), split, (), folder, precision, flip)


def evaluated_runs(runs: Sequence[Path], flip: bool) -> EvaluatedModel:
    """A run to evaluate, or several as an ensemble."""
    name = runs[0].name if len(runs) == 1 else "ensemble of " + ", ".join(run.name for run in runs)
    facts = (
        ("engine", "torch, best checkpoint"),
        ("networks", str(len(runs))),
        ("test-time flip", "yes" if flip else "no"),
    )
    return EvaluatedModel(name, facts, run_split(runs[0]), tuple(runs), None, "fp32", flip)


def cohorts(rows: Sequence[ManifestRow], split: TrainingSplit | None) -> list[Cohort]:
    """The cohorts that a report has a section for.

    If the rows are not those of the model's split, which of them training used is unknown: all are a single cohort.
    """
    if split is None or split_sha256(rows, split.roles(rows)) != split.split_sha256:
        note = "Not the folder that the model was trained on: check yourself that training did not use these pictures."
        return [Cohort("all", "All pictures", note, False, select_pictures(rows, None, None, deduplicated=False))]
    roles = split.roles(rows)
    note = "Patients and pictures that training never used; a single image per picture, conflicting labels excluded."
    chosen = select_pictures(rows, roles, SplitRole.TEST, deduplicated=True)
    found = [Cohort("test", "Split by patient", note, False, chosen)]
    if SplitRole.EXTERNAL in roles:
        note = f"Data of {', '.join(split.external)}, never trained on; patients known from training are excluded."
        chosen = select_pictures(rows, roles, SplitRole.EXTERNAL, deduplicated=True)
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
