"""The report of an evaluation as one HTML page that needs no other file; light or dark as the reader's system is."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from monai_train.data.labels import ANY_TUMOUR, CLASS_NAMES, NO_TUMOUR
from monai_train.evaluation.intervals import Estimate
from monai_train.evaluation.metrics import binary
from monai_train.evaluation.out_of_distribution import OutOfDistributionCheck, PictureSource
from monai_train.evaluation.plots import class_title
from monai_train.evaluation.report import CohortResult, EvaluationReport

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
RESEARCH_USE = '<p class="warn">Research use only. Not a medical device; nothing here may decide about a patient.</p>'
_PLOTS = (
    ("confusion-slices", "Confusion matrix of slices"),
    ("confusion-patients", "Confusion matrix of patients"),
    ("roc", "ROC of slices: each class against the rest"),
    ("precision-recall", "Precision and recall of slices"),
    ("reliability", "Reliability: is a stated 90 % right nine times in ten?"),
    ("risk-coverage", "Risk and coverage: the error that is left when unsure answers are withheld"),
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
    title = f"Evaluation of {escape(report.subject.name)}"
    body = [
        f"<h1>{title}</h1>",
        RESEARCH_USE,
        f'<div class="facts">{_text_table(("model", ""), report.subject.facts)}</div>',
        "<h2>In short</h2>",
        summary_table(report.results),
        "<h2>Goals</h2>",
        _goals(report),
        *(cohort_section(part, report.images) for part in report.results),
        _maps(report),
        _outside(report.outside, report),
        _learning(report),
        _mistakes(report),
        METHOD,
    ]
    return html_document(title, body)


def html_document(title: str, body: Sequence[str]) -> str:
    """The page of that title (HTML); `body` is HTML too."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style>{''.join(body)}</html>\n"
    )


def summary_table(parts: Sequence[CohortResult]) -> str:
    """The main figures of every part, side by side."""
    header = ["", *(_heading(part) for part in parts)]
    rows = []
    for level, name in (("slices", "slices"), ("patients", "patients")):
        rows.append([f"<b>Of {name}</b>", *(_how_many(part, level) for part in parts)])
        for key, title in _SUMMARY:
            rows.append([title, *(_known(key, part, level) for part in parts)])
        rows.append(["Not assessed", *(_withheld(getattr(part.measurement, level).assessed) for part in parts)])
        binaries = [binary(getattr(part.measurement, level)) for part in parts]
        for key, title in (("sensitivity", "Sensitivity"), ("specificity", "Specificity")):
            cells = [_assessed_only(key, part, level, one) for part, one in zip(parts, binaries, strict=True)]
            rows.append([f"{title} among the assessed", *cells])
        rows.append(["Tumours called “no tumour” outright", *(_missed(one) for one in binaries)])
    return html_table(header, rows)


def _known(key: str, part: CohortResult, level: str) -> str:
    if key in _OF_KINDS and not _kinds_known(part):
        return "-<small>kinds of tumour unknown</small>"
    return _cell(key, getattr(part, level)[key])


def _kinds_known(part: CohortResult) -> bool:
    return not (part.measurement.slices.truth == ANY_TUMOUR).any()


def _heading(part: CohortResult) -> str:
    return f'<span class="leaky">{escape(part.cohort.title)}</span>' if part.cohort.leaky else escape(part.cohort.title)


def _how_many(part: CohortResult, level: str) -> str:
    chosen = getattr(part.measurement, level)
    patients = len(set(chosen.groups.tolist()))
    return f"<b>n={len(chosen.truth)}</b><small>{patients} patients</small>"


def _withheld(assessed: Any) -> str:
    return f"{100 * (1 - assessed.mean()):.1f} %<small>n={len(assessed)}</small>"


def _assessed_only(key: str, part: CohortResult, level: str, figures: dict[str, Any]) -> str:
    answers = getattr(part.measurement, level)
    asked = (answers.truth != NO_TUMOUR) == (key == "sensitivity")
    low, high = figures[f"{key}_assessed_ci"] or (None, None)
    return _cell(key, Estimate(figures[f"{key}_assessed"], low, high, int((asked & answers.assessed).sum())))


def _missed(figures: dict[str, Any]) -> str:
    share = "-" if figures["missed"] is None else f"{100 * figures['missed']:.1f} %"
    return f"{share}<small>n={figures['n_tumour']}</small>"


def _cell(key: str, estimate: Estimate) -> str:
    value, interval = estimate.texts(key.split(".")[0] in _PERCENT)
    return f"{value}<small>{f'{interval}, ' if interval else ''}n={estimate.n}</small>"


def _goals(report: EvaluationReport) -> str:
    """What the project set itself, and how far it is."""
    parts = {part.cohort.key: part for part in report.results}
    checks: list[tuple[str, float, bool, float | None, int]] = []  # title, goal, at least, measured, n

    def add(title: str, key: str, part: str, goal: float, at_least: bool = True) -> None:
        if part in parts:
            one = parts[part].slices[key]
            checks.append((title, goal, at_least, one.value, one.n))

    add("Patients apart, slices: balanced accuracy", "balanced_accuracy", "test", 0.965)
    add("External set: sensitivity for any tumour", "sensitivity", "external", 0.92)
    add("External set: specificity", "specificity", "external", 0.92)
    add("Patients apart: calibration error", "ece", "test", 0.03, at_least=False)
    add("External set: calibration error", "ece", "external", 0.10, at_least=False)
    if "external" in parts:
        said = parts["external"].measurement.slices.assessed
        checks.append(("External set: not assessed", 0.15, False, float(1 - said.mean()), len(said)))
    hits = report.hits.get("test")
    if hits is not None:
        checks.append(("Activation maps in the tumour's box", 0.75, True, hits.hits.value, hits.hits.n))
    check = report.outside
    if check is not None:
        for sort, title, goal in (
            (PictureSource.MADE, "Made pictures declined", 0.98),
            (PictureSource.REAL, "Real pictures that are no structural brain MRI declined, each alone", 0.95),
            (PictureSource.SERIES, "The same not assessed, as whole series", 0.95),
        ):
            kinds = [kind for kind in check.kinds if kind.sort is sort]
            refused = sum(kind.not_assessed if sort is PictureSource.SERIES else kind.declined for kind in kinds)
            if kinds:
                n = sum(kind.n for kind in kinds)
                checks.append((title, goal, True, refused / n, n))
        checks.append(("Slices in distribution accepted", 0.95, True, check.accepted / check.n, check.n))
    rows = [[escape(title), *_against(goal, at_least, value, n)] for title, goal, at_least, value, n in checks]
    return html_table(("goal", "wanted", "measured", ""), rows)


def _against(goal: float, at_least: bool, value: float | None, n: int) -> list[str]:
    wanted = f"{'≥' if at_least else '≤'} {100 * goal:.1f} %"
    if value is None:
        return [wanted, f"-<small>n={n}</small>", "not measured"]
    missing = goal - value if at_least else value - goal
    verdict = "reached" if missing <= 0 else f'<span class="leaky">missed by {100 * missing:.1f} points</span>'
    return [wanted, f"{100 * value:.1f} %<small>n={n}</small>", verdict]


def cohort_section(part: CohortResult, images: Mapping[str, bytes]) -> str:
    """One part: its classes and its plots."""
    note = (
        f'<p class="warn">{escape(part.cohort.note)}</p>' if part.cohort.leaky else f"<p>{escape(part.cohort.note)}</p>"
    )
    unreadable = part.measurement.unreadable
    lost = f"<p>Not readable: {', '.join(f'{escape(k)} {n}' for k, n in unreadable.items())}.</p>" if unreadable else ""
    shown = [
        embedded_image(images[f"plots/{part.cohort.key}-{name}"], caption)
        for name, caption in _PLOTS
        if f"plots/{part.cohort.key}-{name}" in images
    ]
    classes = ""
    if _kinds_known(part):
        of_slices, of_patients = _classes(part.slices), _classes(part.patients)
        classes = f"<h3>Each class, slices</h3>{of_slices}<h3>Each class, patients</h3>{of_patients}"
    return f'<h2>{_heading(part)}</h2>{note}{lost}{classes}<h3>Plots</h3><div class="grid plot">{"".join(shown)}</div>'


def _classes(found: dict[str, Estimate]) -> str:
    columns = ("recall", "precision", "specificity", "f1", "auc", "average_precision")
    titles = ("", "recall", "precision", "specificity", "F1", "ROC area", "average precision")
    names = [name for name in CLASS_NAMES if found[f"recall.{name}"].n]
    rows = [[class_title(name), *(_cell(key, found[f"{key}.{name}"]) for key in columns)] for name in names]
    return html_table(titles, rows)


def _maps(report: EvaluationReport) -> str:
    if not report.hits:
        return ""
    rows = [
        [_heading(part), _share(report.hits[part.cohort.key].hits), _share(report.hits[part.cohort.key].centre)]
        for part in report.results
        if part.cohort.key in report.hits
    ]
    note = (
        "Of the slices whose tumour has a known box: the share whose map has its centre of mass in the box, enlarged "
        "by a tenth. The map is that of the answer; a tumour that is called “no tumour” counts as a miss."
    )
    header = ("", "in the box", "a map that always points at the middle")
    return f"<h2>Activation maps</h2><p>{note}</p>{html_table(header, rows)}"


def _share(one: Estimate) -> str:
    return _cell("recall", one)


def _outside(check: OutOfDistributionCheck | None, report: EvaluationReport) -> str:
    if check is None:
        return "<h2>Pictures that are no brain</h2><p>Only a bundle has limits for these; a run has none.</p>"
    rows = [
        [escape(one.kind) + ("" if one.sort is PictureSource.MADE else " (real)"), str(one.n), _of(one.declined, one.n),
         _of(one.not_assessed, one.n)]
        for one in check.kinds
    ]  # fmt: skip
    accepted = f"{_of(check.accepted, check.n)} of the {check.n} slices of the first part above are accepted."
    note = (
        "Declined: not readable as one picture, or beyond the limits on distance and residual. Not assessed: declined, "
        "or too uncertain. All others would be given a class."
    )
    chart = embedded_image(report.images["plots/out-of-distribution"], "Features of both, with the limits")
    return (
        f"<h2>Pictures that are no brain</h2><p>{note}</p>"
        + html_table(("kind", "n", "declined", "not assessed"), rows)
        + f'<p>{accepted}</p><div class="grid plot">{chart}</div>'
    )


def _of(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def _learning(report: EvaluationReport) -> str:
    if "plots/learning-curves" not in report.images:
        return ""
    chart = embedded_image(report.images["plots/learning-curves"], "Loss and validation figure of each epoch")
    return f'<h2>Training</h2><div class="grid plot">{chart}</div>'


def _mistakes(report: EvaluationReport) -> str:
    if not report.mistakes:
        return "<h2>Worst mistakes</h2><p>There is none in the parts that are not leaky.</p>"
    shown = [embedded_image(report.images[name], caption) for name, caption in report.mistakes]
    note = "The surest wrong answers, at most two a patient; orange is the map of the answer, blue the tumour's box."
    return f'<h2>Worst mistakes</h2><p>{note}</p><div class="grid small">{"".join(shown)}</div>'


METHOD = """<h2>How to read this</h2>
<p>Intervals are 95 %, from 2,000 resamples of patients: slices of one patient stand or fall together. Where all or none
are right, the interval is exact (Clopper and Pearson) for that number of patients. Figures look at forced
answers; what the model would rather not say is counted as “not assessed”. A truth that only says “tumour” counts any
tumour class as right; kinds are then not scored. Calibration error uses 15 bins of equal width; chance can only raise
it, so its interval lies high. Where no patient is known, each different picture counts as one.</p>"""


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
