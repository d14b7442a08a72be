"""A cross-validation as an HTML page: every fold, all answers pooled, charts, the folds' learning curves."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from monai_train.data.manifest import ManifestRow
from monai_train.evaluation import plots
from monai_train.evaluation.cohorts import Cohort, CohortResult, cohort_plots
from monai_train.evaluation.evaluate import Evidence, Measurement
from monai_train.evaluation.intervals import Estimate, estimates
from monai_train.evaluation.pages.report_page import (
    METHOD,
    RESEARCH_USE,
    cohort_section,
    embedded_image,
    html_document,
    html_table,
    summary_table,
)
from monai_train.evaluation.plots import class_title
from monai_train.training.epoch_log import LOG
from worker.wording import counted

_NOTE = (
    "Every picture is classified once, by the model that was not trained on its patient; a single image per picture, "
    "conflicting labels excluded. The temperature of a fold is fitted on the other folds' answers; its epoch is "
    "selected on further patients."
)


def write_crossval_page(
    run: Path,
    data: str,
    facts: Sequence[tuple[str, str]],
    rows: Sequence[ManifestRow],
    pooled: Measurement,
    folds: Sequence[Mapping[str, Any]],
) -> Path:
    """Write RUN/report.html; `data` names the data, `folds` are of report.json, `rows` the pictures of all answers."""
    none = np.empty((0, 0, 0), np.float32)  # no maps and no gallery on this page
    evidence = Evidence(tuple(rows), none.astype(np.uint8), none, none, none)
    cohort = Cohort("pooled", "All folds pooled", _NOTE, False, list(range(len(rows))))
    result = CohortResult(cohort, pooled, evidence, estimates(pooled.slices), estimates(pooled.patients))
    images = {f"plots/pooled-{name}": chart for name, chart in cohort_plots(result).items()}
    curves = [embedded_image(chart, f"Fold {number}") for number, chart in _learning(run, len(folds))]
    created = datetime.now(UTC)
    title = escape(f"Cross-validation {run.name} on {data}")
    body = [
        f"<h1>{title}</h1>",
        f'<p class="soft">{len(folds)} folds of {counted(len(rows), "picture")} · {created:%Y-%m-%d}</p>',
        RESEARCH_USE,
        f'<div class="facts">{html_table(("", ""), [[escape(cell) for cell in fact] for fact in facts])}</div>',
        "<h2>Summary</h2>",
        summary_table([result]),
        "<h2>Each fold</h2>",
        _folds(folds, pooled.slices.classes.names),
        cohort_section(result, images),
        f'<h2>Training</h2><div class="grid plot">{"".join(curves)}</div>',
        METHOD,
    ]
    path = run / "report.html"
    path.write_text(html_document(f"{title}, {created:%Y-%m-%d}", body), encoding="utf-8")
    return path


def _learning(run: Path, folds: int) -> list[tuple[int, bytes]]:
    charts = []
    for fold in range(folds):
        with (run / f"fold-{fold}" / LOG).open(newline="") as stream:
            charts.append((fold + 1, plots.learning_curves(list(csv.DictReader(stream)))))
    return charts


def _folds(folds: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Balanced accuracy and the recall of each class, slices above patients, with the spread over the folds."""
    header = [
        "fold",
        "of",
        "n",
        "balanced accuracy",
        *(f"recall {class_title(name)}" for name in names),
        "temperature",
    ]
    lines = []
    for number, fold in enumerate(folds, 1):
        for level in ("slice", "patient"):
            figures = fold[level]
            classes = [figures["per_class"][name] for name in names]
            cells = [_cell(values, "recall", f"n={values['support']}") for values in classes]
            first, last = (str(number), f"{fold['temperature']:.2f}") if level == "slice" else ("", "")
            lines.append([first, f"{level}s", str(figures["n"]), _cell(figures, "balanced_accuracy"), *cells, last])
    for level in ("slice", "patient"):
        values = [100 * fold[level]["balanced_accuracy"] for fold in folds]
        spread = f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} %"
        lines.append(["mean ± sd", f"{level}s", "", spread, *[""] * (len(names) + 1)])
    return html_table(header, lines)


def _cell(figures: Mapping[str, Any], name: str, note: str = "") -> str:
    """A figure with its interval and a note below."""
    low, high = figures[f"{name}_ci"] or (None, None)
    value, interval = Estimate(figures[name], low, high, 0).texts(in_percent=True)
    return f"{value}<small>{', '.join(filter(None, [interval, note]))}</small>"
