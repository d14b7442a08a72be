"""The report of an evaluation as a self-contained HTML page, light or dark as the reader's system."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from monai_train.evaluation.cohorts import CohortResult, confounded, group_figures
from monai_train.evaluation.intervals import Estimate
from monai_train.evaluation.metrics import Predictions, binary_figures
from monai_train.evaluation.out_of_distribution import PictureSource
from monai_train.evaluation.plots import class_title
from monai_train.evaluation.report import EvaluationReport
from monai_train.evaluation.tables import GROUP_HEADER, group_rows
from worker.wording import counted

_STYLE = """
:root{color-scheme:light dark;--ink:#1c1e21;--soft:#5b6168;--line:#d9dce0;--paper:#fff;--warn:#fff3d1;--bad:#a33a00}
@media(prefers-color-scheme:dark){:root{--ink:#e6e7e9;--soft:#a4abb3;--line:#3a3f45;--paper:#15171a;--warn:#3b3113;
--bad:#ff9b66}.plot img{filter:invert(1) hue-rotate(180deg);mix-blend-mode:screen}}
body{font:16px/1.55 system-ui,sans-serif;max-width:68rem;margin:0 auto;padding:1.5rem 1rem 4rem;color:var(--ink);
background:var(--paper)}
h1{line-height:1.2;margin:.5rem 0}h2{margin:3rem 0 .5rem;border-bottom:1px solid var(--line)}h3{margin:1.8rem 0 .3rem}
p{max-width:46rem}.wide{overflow-x:auto}table{border-collapse:collapse;margin:.8rem 0;font-variant-numeric:tabular-nums}
td,th{padding:.3rem .9rem .3rem 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600}td small,th small{display:block;white-space:nowrap}small,figcaption,.soft{color:var(--soft)}
.warn{background:var(--warn);padding:.6rem 1rem;border-radius:.4rem}.leaky{color:var(--bad)}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,27rem),1fr));gap:1.2rem;align-items:start}
.small{grid-template-columns:repeat(auto-fill,minmax(min(100%,15rem),1fr))}
.facts td{overflow-wrap:anywhere}.facts td:first-child{white-space:nowrap}
td:first-child,th:first-child{position:sticky;left:0;background:var(--paper)}figure{margin:0}img{width:100%;height:auto;display:block}figcaption{font-size:.9rem;margin-top:.2rem}
"""
RESEARCH_USE = (
    '<p class="warn">Research use only. Not a medical device; no decision about a patient may rest on it.</p>'
)
_PLOTS = (
    ("confusion-slices", "Confusion matrix of slices"),
    ("confusion-patients", "Confusion matrix of patients"),
    ("roc", "ROC of slices: each class against the rest"),
    ("precision-recall", "Precision and recall of slices"),
    ("reliability", "Reliability: are answers with a probability of 90 % right nine times in ten?"),
    ("risk-coverage", "Risk and coverage: the error that remains if unsure answers are withheld"),
)
_SUMMARY = (
    ("balanced_accuracy", "Balanced accuracy"),
    ("accuracy", "Accuracy"),
    ("sensitivity", "Sensitivity for any tumour"),
    ("specificity", "Specificity"),
    ("auc.tumour", "ROC area, tumour or none"),
    ("average_precision.tumour", "Average precision, tumour or none"),
    ("mcc", "Matthews' coefficient"),
    ("brier", "Brier score (0 best, 2 worst)"),
    ("ece", "Calibration error"),
)
_OF_KINDS = {"mcc", "brier"}
_PERCENT = {"balanced_accuracy", "accuracy", "sensitivity", "specificity", "precision", "recall", "f1"}


def report_html(report: EvaluationReport) -> str:
    """The whole report as HTML."""
    parts = ", ".join(result.cohort.title for result in report.results)
    title = escape(f"{report.model.name} on {report.data}")
    facts = (
        ("data", f"{report.data}, SHA-256 {report.data_sha256}"),
        ("measured", f"{report.created:%Y-%m-%d %H:%M} UTC"),
        *report.model.facts,
    )
    body = [
        f"<h1>{title}</h1>",
        f'<p class="soft">{escape(parts)} · {report.created:%Y-%m-%d}</p>',
        RESEARCH_USE,
        f'<div class="facts">{_text_table(("evaluation", ""), facts)}</div>',
        "<h2>Summary</h2>",
        summary_table(report.results),
        *(cohort_section(result, report.images) for result in report.results),
        _activation_maps(report),
        _out_of_distribution(report),
        _training(report),
        _mistakes(report),
        METHOD,
    ]
    return html_document(f"{title}: {escape(parts)}, {report.created:%Y-%m-%d}", body)


def html_document(title: str, body: Sequence[str]) -> str:
    """The page of that title; both arguments are HTML."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style>{''.join(body)}</html>\n"
    )


def summary_table(results: Sequence[CohortResult]) -> str:
    """The main figures of every cohort, side by side."""
    header = ["", *(_heading(result) for result in results)]
    rows = []
    for level in ("slices", "patients"):
        rows.append([f"<b>Of {level}</b>", *(_number(result, level) for result in results)])
        for key, title in _SUMMARY:
            rows.append([title, *(_summary_cell(key, result, level) for result in results)])
        answers = [getattr(result.measurement, level) for result in results]
        rows.append(["Not assessed", *(_not_assessed(predictions) for predictions in answers)])
        binaries = [binary_figures(predictions) for predictions in answers]
        for key, title in (("sensitivity", "Sensitivity"), ("specificity", "Specificity")):
            cells = [_assessed_cell(key, *pair) for pair in zip(answers, binaries, strict=True)]
            rows.append([f"{title} among the assessed", *cells])
        rows.append(["Tumours with the answer “no tumour”", *(_missed(figures) for figures in binaries)])
    return html_table(header, rows)


def _summary_cell(key: str, result: CohortResult, level: str) -> str:
    if key in _OF_KINDS and not _kinds_known(result):
        return "-<small>kinds of tumour unknown</small>"
    return _cell(key, getattr(result, level)[key])


def _kinds_known(result: CohortResult) -> bool:
    slices = result.measurement.slices
    return not (slices.truth == slices.classes.any_tumour).any()


def _heading(result: CohortResult) -> str:
    title = escape(result.cohort.title)
    return f'<span class="leaky">{title}</span>' if result.cohort.leaky else title


def _number(result: CohortResult, level: str) -> str:
    answers = getattr(result.measurement, level)
    patients = len(set(answers.groups.tolist()))
    return f"<b>n={len(answers.truth)}</b><small>{counted(patients, 'patient')}</small>"


def _not_assessed(answers: Predictions) -> str:
    return f"{100 * (1 - answers.assessed.mean()):.1f} %<small>n={len(answers.assessed)}</small>"


def _assessed_cell(key: str, answers: Predictions, figures: dict[str, Any]) -> str:
    counted = (answers.truth != answers.classes.no_tumour) == (key == "sensitivity")
    low, high = figures[f"{key}_assessed_ci"] or (None, None)
    return _cell(key, Estimate(figures[f"{key}_assessed"], low, high, int((counted & answers.assessed).sum())))


def _missed(figures: dict[str, Any]) -> str:
    share = "-" if figures["missed"] is None else f"{100 * figures['missed']:.1f} %"
    return f"{share}<small>n={figures['n_tumour']}</small>"


def _cell(key: str, estimate: Estimate) -> str:
    value, interval = estimate.texts(key.split(".")[0] in _PERCENT)
    return f"{value}<small>{f'{interval}, ' if interval else ''}n={estimate.n}</small>"


def cohort_section(result: CohortResult, images: Mapping[str, bytes]) -> str:
    """A cohort: its classes and its charts."""
    cohort = result.cohort
    style = ' class="warn"' if cohort.leaky else ""
    note = f"<p{style}>{escape(cohort.note)}</p>"
    reasons = ", ".join(f"{escape(reason)} {n}" for reason, n in result.measurement.unreadable.items())
    unreadable = f"<p>Not readable: {reasons}.</p>" if reasons else ""
    slices, rows = result.measurement.slices, result.evidence.rows
    warnings = "".join(f'<p class="warn">{escape(sentence)}.</p>' for sentence in confounded(slices, rows))
    groups = _text_table(GROUP_HEADER, group_rows(group_figures(slices, rows)))
    charts = [
        embedded_image(images[f"plots/{cohort.key}-{name}"], caption)
        for name, caption in _PLOTS
        if f"plots/{cohort.key}-{name}" in images
    ]
    classes = ""
    if _kinds_known(result):
        of_slices, of_patients = (
            _class_table(figures, result.measurement.slices.classes.names)
            for figures in (result.slices, result.patients)
        )
        classes = f"<h3>Each class, slices</h3>{of_slices}<h3>Each class, patients</h3>{of_patients}"
    return (
        f"<h2>{_heading(result)}</h2>{note}{unreadable}{warnings}{classes}"
        f"<h3>Slices by sequence, slice level and source</h3>{groups}"
        f'<h3>Charts</h3><div class="grid plot">{"".join(charts)}</div>'
    )


def _class_table(figures: Mapping[str, Estimate], classes: Sequence[str]) -> str:
    columns = ("recall", "precision", "specificity", "f1", "auc", "average_precision")
    titles = ("", "recall", "precision", "specificity", "F1", "ROC area", "average precision")
    names = [name for name in classes if figures[f"recall.{name}"].n]
    rows = [[class_title(name), *(_cell(key, figures[f"{key}.{name}"]) for key in columns)] for name in names]
    return html_table(titles, rows)


def _activation_maps(report: EvaluationReport) -> str:
    if not report.hits:
        return ""
    rows = [
        [_heading(result), *(_cell("recall", share) for share in (hits.hits, hits.centre))]
        for result in report.results
        if (hits := report.hits.get(result.cohort.key)) is not None
    ]
    note = (
        "Of the slices whose tumour has a known box: the share whose map has its centre of mass in the box, enlarged "
        "by a tenth. The map is that of the answer; a tumour with the answer “no tumour” counts as a miss."
    )
    header = ("", "in the box", "a map that always points at the middle")
    return f"<h2>Activation maps</h2><p>{note}</p>{html_table(header, rows)}"


def _out_of_distribution(report: EvaluationReport) -> str:
    check = report.out_of_distribution
    if check is None:
        return "<h2>Out of distribution</h2><p>Only a bundle has out-of-distribution limits; a run has none.</p>"
    rows = [
        [
            escape(kind.kind) + ("" if kind.source is PictureSource.SYNTHETIC else " (real)"),
            str(kind.n),
            _share(kind.declined, kind.n),
            _share(kind.not_assessed, kind.n),
        ]
        for kind in check.kinds
    ]
    accepted = f"{_share(check.accepted, check.n)} of the {check.n} slices of the first cohort above are accepted."
    note = (
        "Pictures that are not brain MRI. Declined: not readable as a picture, or beyond the limits on distance and "
        "residual. Not assessed: declined, or too uncertain. All others would be given a class."
    )
    chart = embedded_image(report.images["plots/out-of-distribution"], "Features of both, with the limits")
    return (
        f"<h2>Out of distribution</h2><p>{note}</p>"
        + html_table(("kind", "n", "declined", "not assessed"), rows)
        + f'<p>{accepted}</p><div class="grid plot">{chart}</div>'
    )


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def _training(report: EvaluationReport) -> str:
    if "plots/learning-curves" not in report.images:
        return ""
    chart = embedded_image(report.images["plots/learning-curves"], "Loss and validation figure of each epoch")
    return f'<h2>Training</h2><div class="grid plot">{chart}</div>'


def _mistakes(report: EvaluationReport) -> str:
    if not report.mistakes:
        return "<h2>Worst mistakes</h2><p>There are none in the cohorts that are not leaky.</p>"
    pictures = [embedded_image(report.images[name], caption) for name, caption in report.mistakes]
    note = (
        "The wrong answers with the highest probability, at most two per patient; orange is the map of the answer, "
        "blue the tumour's box."
    )
    return f'<h2>Worst mistakes</h2><p>{note}</p><div class="grid small">{"".join(pictures)}</div>'


METHOD = """<h2>How to read this</h2>
<p>Intervals are 95 %, from 2,000 resamples of patients: slices of a patient are drawn together. Where
the resamples are all equal, or reach 0 or 100 %, the interval is exact (Clopper and Pearson) for that number of
patients. Figures are of all answers, including
those that the model would withhold; these are counted as “not assessed”. If the truth is only “tumour”, any tumour
class is right, and kinds are not scored. Calibration error uses 15 bins of equal width; chance can only raise it, so
its interval lies high. If no patient is known, each different picture counts as a patient.</p>"""


def embedded_image(png: bytes, caption: str) -> str:
    """A picture with its caption, inside the page."""
    data = base64.b64encode(png).decode()
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _text_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return html_table(header, [[escape(cell) for cell in row] for row in rows])


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
