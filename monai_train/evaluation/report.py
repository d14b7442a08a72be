"""`evaluate --report`: everything that was measured of a model, as one HTML page, JSON, CSV and PNG files.

DIR/report.html          self-contained: opens anywhere, asks no other file
DIR/report.json          every figure with its interval and n
DIR/predictions-*.csv    every answer, for other programs and for `compare`
DIR/plots/*.png          the plots; DIR/mistakes/*.png the gallery, real pictures: mind their licence
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_train.data.labels import CLASS_NAMES
from monai_train.data.manifest import ManifestRow, read_manifest
from monai_train.data.patients import SplitRole, split_sha256
from monai_train.evaluation import plots
from monai_train.evaluation.activation import MapHits, map_hits, overlay, worst_mistakes
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
from monai_train.evaluation.metrics import Predictions
from monai_train.evaluation.out_of_distribution import OutOfDistributionCheck, check_out_of_distribution
from monai_train.training.epoch_log import LOG
from worker.errors import StartError
from worker.inference.bundle import load_bundle
from worker.inference.engines import Precision

GALLERY = 12


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """The model that is judged: how it is called, its split, its folders of runs, and its bundle where it is one."""

    name: str
    facts: tuple[tuple[str, str], ...]
    split: TrainingSplit | None
    runs: tuple[Path, ...] = ()
    bundle: Path | None = None
    precision: Precision = "int8"
    flip: bool = False

    def examine(self, data: Path, rows: Sequence[ManifestRow], chosen: Sequence[int]) -> tuple[Measurement, Evidence]:
        """Its answers on these rows of the manifest."""
        if self.bundle is None:
            return examine_runs(self.runs, data, rows, chosen, self.flip)
        return examine_bundle(self.bundle, data, [rows[i] for i in chosen], self.precision, flip=self.flip)


@dataclass(frozen=True, slots=True)
class Cohort:
    """One set of pictures to be measured: their positions in the manifest; `leaky` where training knew its patients."""

    key: str
    title: str
    note: str
    leaky: bool
    chosen: list[int]


@dataclass(frozen=True, slots=True)
class CohortResult:
    """What the model said of one set of pictures."""

    cohort: Cohort
    measurement: Measurement
    evidence: Evidence
    slices: dict[str, Estimate]
    patients: dict[str, Estimate]


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Everything that the page shows; `images` are PNG by name."""

    subject: EvaluatedModel
    results: tuple[CohortResult, ...]
    hits: dict[str, MapHits]
    outside: OutOfDistributionCheck | None
    images: dict[str, bytes]
    mistakes: tuple[tuple[str, str], ...]  # the name of a picture, its caption

    def to_json(self) -> dict[str, Any]:
        """Every figure, with its interval and n."""
        return {
            "model": {"name": self.subject.name, **dict(self.subject.facts)},
            "parts": {part.cohort.key: _part_json(part) for part in self.results},
            "activation_maps": {
                key: {"hits": one.hits.to_json(), "always_the_middle": one.centre.to_json()}
                for key, one in self.hits.items()
            },
            "out_of_distribution": None if self.outside is None else _outside_json(self.outside),
        }


def evaluated_bundle(folder: Path, precision: Precision, flip: bool) -> EvaluatedModel:
    """A bundle to be judged. StartError when it is damaged."""
    load_bundle(folder)
    described = json.loads((folder / "worker.json").read_text())
    keys = ("name", "version", "family", "commit", "training_data_sha256", "temperature")
    facts = [(key.replace("_", " "), str(described.get(key, "unknown"))) for key in keys]
    mirrored = flip or described.get("mirror", False)
    facts += [("engine", f"OpenVINO {precision}"), ("test-time flip", "yes" if mirrored else "no")]
    try:
        split = read_split(folder)
    except StartError:
        split = None  # made by another program: nobody knows what it was trained on
    return EvaluatedModel(
        f"{described['name']} {described['version']}", tuple(facts), split, (), folder, precision, flip
    )


def evaluated_runs(runs: Sequence[Path], flip: bool) -> EvaluatedModel:
    """A run, or several as an ensemble, to be judged."""
    name = runs[0].name if len(runs) == 1 else "ensemble of " + ", ".join(run.name for run in runs)
    facts = (
        ("engine", "torch, best checkpoint"),
        ("networks", str(len(runs))),
        ("test-time flip", "yes" if flip else "no"),
    )
    return EvaluatedModel(name, facts, run_split(runs[0]), tuple(runs), None, "fp32", flip)


def write_report(subject: EvaluatedModel, data: Path, out: Path, log: Path | None, outside: Path | None) -> Path:
    """Measure the subject on every part of a converted folder and write the report into OUT; returns the page.

    `log` is the log.csv of its training; `outside` a folder of DICOM files that are no structural brain MRI.
    Raises StartError where there is nothing to measure or the output cannot be written.
    """
    from monai_train.evaluation.report_page import report_html

    try:
        for name in ("plots", "mistakes"):
            (out / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(out, error) from None
    report = make_report(subject, data, log, outside)
    try:
        for name, content in report.images.items():
            (out / f"{name}.png").write_bytes(content)
        for part in report.results:
            write_predictions(out / f"predictions-{part.cohort.key}.csv", part.evidence.rows, part.measurement.slices)
        (out / "report.json").write_text(json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n")
        (out / "report.html").write_text(report_html(report), encoding="utf-8")
    except OSError as error:
        raise _not_writable(out, error) from None
    return out / "report.html"


def _not_writable(out: Path, error: OSError) -> StartError:
    return StartError("output-not-writable", f"cannot write to {out}: {error.strerror}")


def make_report(subject: EvaluatedModel, data: Path, log: Path | None, outside: Path | None) -> EvaluationReport:
    """Measure and draw."""
    curves = _learning_curves(subject, log)
    rows = read_manifest(data)
    parts = [_measure(subject, data, rows, cohort) for cohort in cohorts(rows, subject.split)]
    images = {} if curves is None else {"plots/learning-curves": curves}
    for part in parts:
        images.update({f"plots/{part.cohort.key}-{name}": content for name, content in cohort_plots(part).items()})
    check = None
    if subject.bundle is not None:
        test = parts[0]
        check = check_out_of_distribution(
            subject.bundle, subject.precision, test.evidence.features, test.measurement.slices, outside
        )
        names = ("test slices", "pictures to be declined")
        images["plots/out-of-distribution"] = plots.distribution_chart(
            check.points_inside, check.points_outside, check.limits, names
        )
    mistakes = _gallery([part for part in parts if not part.cohort.leaky], images)
    hits = {part.cohort.key: map_hits(part.measurement.slices, part.evidence) for part in parts}
    found = {key: one for key, one in hits.items() if one is not None}
    return EvaluationReport(subject, tuple(parts), found, check, images, tuple(mistakes))


def _learning_curves(subject: EvaluatedModel, log: Path | None) -> bytes | None:
    """From the log that was named, or else from the only run's own."""
    path = log or (subject.runs[0] / LOG if len(subject.runs) == 1 else None)
    if path is None or (log is None and not path.is_file()):
        return None
    try:
        with path.open(newline="") as stream:
            return plots.learning_curves(list(csv.DictReader(stream)))
    except (OSError, KeyError, ValueError) as error:
        raise StartError("unreadable-log", f"{path} is not the log.csv of a run") from error


def cohorts(rows: Sequence[ManifestRow], split: TrainingSplit | None) -> list[Cohort]:
    """The parts that a report has a section for.

    Where the rows are not those that the model's split was made of, nobody knows which of them training saw: one part.
    """
    if split is None or split_sha256(rows, split.roles(rows)) != split.split_sha256:
        note = "Not the folder that the model was trained on: whether training saw any of these is for you to know."
        return [Cohort("all", "All pictures", note, False, select_pictures(rows, None, None, deduplicated=False))]
    roles = split.roles(rows)
    note = "Patients and pictures that training never saw; one image a picture, conflicting labels left out."
    parts = [
        Cohort("test", "Patients apart", note, False, select_pictures(rows, roles, SplitRole.TEST, deduplicated=True))
    ]
    if SplitRole.EXTERNAL in roles:
        note = f"Data of {', '.join(split.external)}, never trained on; patients known from training left out."
        parts.append(
            Cohort(
                "external",
                "External set",
                note,
                False,
                select_pictures(rows, roles, SplitRole.EXTERNAL, deduplicated=True),
            )
        )
    official = [i for i, row in enumerate(rows) if row.split == "test"]
    if official:
        note = _leak_note(roles, official)
        parts.append(Cohort("official", "Official split: LEAKY", note, True, official))
    return parts


def _leak_note(roles: Sequence[SplitRole], official: Sequence[int]) -> str:
    known = sum(roles[i] in (SplitRole.TRAIN, SplitRole.VALIDATION) for i in official)
    return (
        f"The test folder as its authors parted it, every copy counted. {known} of these {len(official)} images were "
        "in this model's own training or validation: the figures measure memory and are here only because others "
        "publish such."
    )


def _measure(subject: EvaluatedModel, data: Path, rows: Sequence[ManifestRow], cohort: Cohort) -> CohortResult:
    measured, evidence = subject.examine(data, rows, cohort.chosen)
    return CohortResult(cohort, measured, evidence, estimates(measured.slices), estimates(measured.patients))


def cohort_plots(part: CohortResult) -> dict[str, bytes]:
    """The charts of a part, PNG by name."""
    slices = part.measurement.slices
    drawn = {
        "confusion-slices": plots.confusion_chart(slices),
        "confusion-patients": plots.confusion_chart(part.measurement.patients),
        "reliability": plots.reliability_chart(slices, part.slices["ece"]),
        "risk-coverage": plots.risk_coverage_chart(slices),
    }
    if plots.curves(slices):
        drawn["roc"] = plots.roc_chart(slices, part.slices)
        drawn["precision-recall"] = plots.precision_recall_chart(slices, part.slices)
    return drawn


def _gallery(parts: Sequence[CohortResult], images: dict[str, bytes]) -> list[tuple[str, str]]:
    """Draw the worst mistakes of each part into `images`; returns their names and captions."""
    shown = []
    for part in parts:
        slices = part.measurement.slices
        for rank, index in enumerate(worst_mistakes(slices, GALLERY)):
            answer = int(slices.predicted[index])
            truth = int(slices.truth[index])
            name = f"mistakes/{part.cohort.key}-{rank:02d}"
            images[name] = overlay(
                part.evidence.pixels[index], part.evidence.maps[index, answer], part.evidence.boxes[index]
            )
            said = f"{plots.class_title(CLASS_NAMES[answer])} {100 * slices.probabilities[index, answer]:.0f} %"
            wanted = plots.class_title((*CLASS_NAMES, "tumor")[truth])
            withheld = "" if slices.assessed[index] else " (withheld: not assessed)"
            shown.append((name, f"{part.cohort.title}: says {said}, is {wanted}{withheld}"))
    return shown


def write_predictions(path: Path, rows: Sequence[ManifestRow], predictions: Predictions) -> None:
    """One line a picture: where it is, its truth and patient, the probabilities, whether the model would say it."""
    names = (*CLASS_NAMES, "tumor")
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "dataset", "patient_group", "truth", *CLASS_NAMES, "assessed"])
        for row, truth, given, assessed in zip(
            rows, predictions.truth, predictions.probabilities, predictions.assessed, strict=True
        ):
            shown = [f"{p:.6f}" if np.isfinite(p) else "" for p in given]
            writer.writerow([row.path, row.dataset, row.patient_group, names[truth], *shown, int(assessed)])


def _part_json(part: CohortResult) -> dict[str, Any]:
    return {
        "title": part.cohort.title,
        "leaky": part.cohort.leaky,
        **part.measurement.to_json(),
        "estimates": {
            level: {name: one.to_json() for name, one in found.items()}
            for level, found in (("slice", part.slices), ("patient", part.patients))
        },
    }


def _outside_json(check: OutOfDistributionCheck) -> dict[str, Any]:
    kinds = {one.kind: {"n": one.n, "declined": one.declined, "not_assessed": one.not_assessed} for one in check.kinds}
    return {"in_distribution": {"n": check.n, "accepted": check.accepted}, "outside": kinds}
