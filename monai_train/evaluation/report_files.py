"""`evaluate --report`: the report as HTML, JSON, CSV and PNG files.

DIR/report.html          self-contained: needs no other file
DIR/report.json          every figure with its interval and n
DIR/predictions-*.csv    every answer, for other programs and for `compare`
DIR/plots/*.png          the charts; DIR/mistakes/*.png the gallery: real pictures, mind their licence
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monai_train.data.manifest import ManifestRow
from monai_train.evaluation.cohorts import EvaluatedModel
from monai_train.evaluation.metrics import Predictions
from monai_train.evaluation.pages.report_page import report_html
from monai_train.evaluation.report import make_report
from worker.errors import StartError


def write_report(model: EvaluatedModel, data: Path, out: Path, log: Path | None, outside: Path | None) -> Path:
    """Make the report, see `make_report`, and write it into OUT; returns the page.

    Raises StartError if there is nothing to measure or the output cannot be written.
    """
    try:
        for name in ("plots", "mistakes"):
            (out / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(out, error) from None
    report = make_report(model, data, log, outside)
    try:
        for name, content in report.images.items():
            (out / f"{name}.png").write_bytes(content)
        for result in report.results:
            path = out / f"predictions-{result.cohort.key}.csv"
            write_predictions(path, result.evidence.rows, result.measurement.slices)
        (out / "report.json").write_text(json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n")
        (out / "report.html").write_text(report_html(report), encoding="utf-8")
    except OSError as error:
        raise _not_writable(out, error) from None
    return out / "report.html"


def _not_writable(out: Path, error: OSError) -> StartError:
    return StartError("output-not-writable", f"cannot write to {out}: {error.strerror}")


def write_predictions(path: Path, rows: Sequence[ManifestRow], predictions: Predictions) -> None:
    """Write a line per picture: path, data set, patient, truth, probabilities, whether the model assesses it."""
    names = predictions.classes.label_names
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "dataset", "patient_group", "truth", *predictions.classes.names, "assessed"])
        for row, truth, probabilities, assessed in zip(
            rows, predictions.truth, predictions.probabilities, predictions.assessed, strict=True
        ):
            cells = [f"{probability:.6f}" if np.isfinite(probability) else "" for probability in probabilities]
            writer.writerow([row.path, row.dataset, row.patient_group, names[truth], *cells, int(assessed)])
