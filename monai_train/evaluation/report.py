"""The content of an evaluation report: everything that is measured and drawn of a model."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monai_train.data.manifest import data_sha256, folder_name, read_manifest
from monai_train.evaluation import plots
from monai_train.evaluation.activation import MapHits, map_hits, overlay, worst_mistakes
from monai_train.evaluation.cohorts import (
    CohortResult,
    EvaluatedModel,
    cohort_plots,
    cohorts,
    evaluation_json,
    measure_cohort,
)
from monai_train.evaluation.out_of_distribution import OutOfDistributionCheck, check_out_of_distribution
from monai_train.training.epoch_log import LOG
from worker.errors import StartError

GALLERY = 12


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Everything that the page shows; `images` are PNG by name, `data` names what was measured."""

    model: EvaluatedModel
    data: str
    data_sha256: str
    created: datetime
    results: tuple[CohortResult, ...]
    hits: dict[str, MapHits]
    out_of_distribution: OutOfDistributionCheck | None
    images: dict[str, bytes]
    mistakes: tuple[tuple[str, str], ...]  # name of an image, caption

    def to_json(self) -> dict[str, Any]:
        """Every figure, with its interval and n."""
        check = self.out_of_distribution
        return {
            "created": self.created.isoformat(timespec="seconds"),
            "data": {"name": self.data, "sha256": self.data_sha256},
            "model": {"name": self.model.name, **dict(self.model.facts)},
            "parts": {result.cohort.key: _result_json(result) for result in self.results},
            "activation_maps": {
                key: {"hits": hits.hits.to_json(), "always_the_middle": hits.centre.to_json()}
                for key, hits in self.hits.items()
            },
            "out_of_distribution": None if check is None else _out_of_distribution_json(check),
        }


def make_report(model: EvaluatedModel, data: Path, log: Path | None, outside: Path | None) -> EvaluationReport:
    """Measure a model on every cohort of a converted folder and draw the charts.

    `log` is the log.csv of its training; `outside` a folder of DICOM files that are not structural brain MRI.
    Raises StartError if there is nothing to measure or `log` is not such a file.
    """
    curves = _learning_curves(model, log)
    rows = read_manifest(data)
    results = [measure_cohort(model, data, rows, cohort) for cohort in cohorts(model, rows)]
    images = {} if curves is None else {"plots/learning-curves": curves}
    for result in results:
        charts = cohort_plots(result)
        images.update({f"plots/{result.cohort.key}-{name}": chart for name, chart in charts.items()})
    check = None
    if model.bundle is not None:
        first = results[0]
        check = check_out_of_distribution(
            model.bundle, model.precision, first.evidence.features, first.measurement.slices, outside
        )
        images["plots/out-of-distribution"] = plots.distribution_chart(
            check.points_inside, check.points_outside, check.limits, ("test slices", "pictures to be declined")
        )
    mistakes = _gallery([result for result in results if not result.cohort.leaky], images)
    hits = {result.cohort.key: map_hits(result.measurement.slices, result.evidence) for result in results}
    with_boxes = {key: of_cohort for key, of_cohort in hits.items() if of_cohort is not None}
    return EvaluationReport(
        model, folder_name(data), data_sha256(rows), datetime.now(UTC), tuple(results), with_boxes, check, images,
        tuple(mistakes),
    )  # fmt: skip


def _learning_curves(model: EvaluatedModel, log: Path | None) -> bytes | None:
    """Draw the named log, or else that of a single run."""
    path = log or (model.runs[0] / LOG if len(model.runs) == 1 else None)
    if path is None or (log is None and not path.is_file()):
        return None
    try:
        with path.open(newline="") as stream:
            return plots.learning_curves(list(csv.DictReader(stream)))
    except (OSError, KeyError, ValueError) as error:
        raise StartError("unreadable-log", f"{path} is not the log.csv of a run") from error


def _gallery(results: Sequence[CohortResult], images: dict[str, bytes]) -> list[tuple[str, str]]:
    """Draw the worst mistakes of each cohort into `images`; returns their names and captions."""
    mistakes = []
    for result in results:
        slices, evidence = result.measurement.slices, result.evidence
        for rank, index in enumerate(worst_mistakes(slices, GALLERY)):
            answer, truth = int(slices.predicted[index]), int(slices.truth[index])
            name = f"mistakes/{result.cohort.key}-{rank:02d}"
            images[name] = overlay(evidence.pixels[index], evidence.maps[index, answer], evidence.boxes[index])
            probability = 100 * slices.probabilities[index, answer]
            titles = [plots.class_title(slices.classes.label_names[label]) for label in (answer, truth)]
            withheld = "" if slices.assessed[index] else " (withheld: not assessed)"
            caption = f"{result.cohort.title}: answer {titles[0]} {probability:.0f} %, truth {titles[1]}{withheld}"
            mistakes.append((name, caption))
    return mistakes


def _result_json(result: CohortResult) -> dict[str, Any]:
    return {
        "title": result.cohort.title,
        "leaky": result.cohort.leaky,
        **evaluation_json(result.measurement, result.evidence.rows),
        "estimates": {
            level: {name: estimate.to_json() for name, estimate in figures.items()}
            for level, figures in (("slice", result.slices), ("patient", result.patients))
        },
    }


def _out_of_distribution_json(check: OutOfDistributionCheck) -> dict[str, Any]:
    kinds = {
        kind.kind: {"n": kind.n, "declined": kind.declined, "not_assessed": kind.not_assessed} for kind in check.kinds
    }
    return {"in_distribution": {"n": check.n, "accepted": check.accepted}, "outside": kinds}
