"""Tables of figures: drawn by Rich on the terminal, GitHub Flavored Markdown in a document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from worker.wording import counted

HEADER = ("figure", "slices", "patients")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A GFM table, padded so that it reads as plain text as well; `|` in a cell is escaped."""
    cells = [[cell.replace("|", r"\|") for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_line([cell.ljust(width) for cell, width in zip(row, widths, strict=True)]) for row in cells]
    return "\n".join([lines[0], _line(["-" * max(3, width) for width in widths]), *lines[1:]])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def report_rows(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name of a figure, its value of slices and of patients, with n or a 95 % interval; of `Measurement.to_json`."""
    levels = (report["slice"], report["patient"])
    binaries = (report["binary"], report["patient_binary"])
    rows: list[tuple[str, ...]] = [
        ("n", *(f"{level['n']} ({counted(level['patients'], 'patient')})" for level in levels))
    ]
    if report["binary"]["n_no_tumour"] not in (0, report["n"]):
        accuracies = (_percent(level["balanced_accuracy"], level["balanced_accuracy_ci"]) for level in levels)
        rows.append(("balanced accuracy", *accuracies))
    rows.append(("accuracy", *(_percent(level["accuracy"], level["accuracy_ci"]) for level in levels)))
    for label in report["labels"]:
        classes = (level["per_class"][label] for level in levels)
        rows.append(
            (f"recall {label}", *(f"{_percent(c['recall'], c['recall_ci'])} (n={c['support']})" for c in classes))
        )
    rows.append(("calibration error", *("-" if level["ece"] is None else f"{level['ece']:.3f}" for level in levels)))
    for name, n in (("sensitivity", "n_tumour"), ("specificity", "n_no_tumour")):
        rows.append((name, *(f"{_percent(b[name], b[name + '_ci'])} (n={b[n]})" for b in binaries)))
    for name in ("sensitivity", "specificity"):
        key = f"{name}_assessed"
        rows.append((f"{name}, assessed only", *(_percent(b[key], b[key + "_ci"]) for b in binaries)))
    for name, key in (
        ("tumours called no tumour", "missed"),
        ("no tumour called tumour", "false_alarms"),
        ("not assessed", "not_assessed"),
    ):
        rows.append((name, *(_percent(b[key], b[f"{key}_ci"]) for b in binaries)))
    return [(name, slices, patients) for name, slices, patients in rows]


def _percent(value: float | None, interval: Sequence[float] | None = None) -> str:
    if value is None:
        return "-"
    bounds = f" ({100 * interval[0]:.1f}-{100 * interval[1]:.1f})" if interval else ""
    return f"{100 * value:.1f} %{bounds}"


def report_table(title: str, report: dict[str, Any]) -> Table:
    """The rows of a report for the terminal."""
    table = Table(*HEADER, title=title, title_justify="left")
    for row in report_rows(report):
        table.add_row(*row)
    return table


GROUP_HEADER = ("group", "n (patients)", "sensitivity", "specificity", "tumours called none", "not assessed")


def group_rows(groups: dict[str, Any]) -> list[tuple[str, ...]]:
    """The figures of `cohorts.group_figures`, a row for each value of sequence, slice level and source."""
    rows = []
    for kind, values in groups.items():
        for value, found in values.items():
            cells = (
                f"{_percent(found[name], found[f'{name}_ci'])}{'' if n is None else f' (n={found[n]})'}"
                for name, n in (
                    ("sensitivity", "n_tumour"),
                    ("specificity", "n_no_tumour"),
                    ("missed", None),
                    ("not_assessed", None),
                )
            )
            rows.append((f"{kind.replace('_', ' ')}: {value}", f"{found['n']} ({found['patients']})", *cells))
    return rows


def group_table(groups: dict[str, Any]) -> Table:
    """The rows of groups for the terminal."""
    table = Table(title="Slices by sequence, slice level and source", title_justify="left", padding=0)
    for name in GROUP_HEADER:
        table.add_column(name, overflow="fold")  # an interval that is cut says something else
    for row in group_rows(groups):
        table.add_row(*row)
    return table


def group_markdown(groups: dict[str, Any]) -> str:
    """The rows of groups as a GFM table, "" without any."""
    rows = group_rows(groups)
    return markdown_table(GROUP_HEADER, rows) if rows else ""


def report_markdown(title: str, report: dict[str, Any]) -> str:
    """The rows of a report as a GFM table under a heading of the third level."""
    return f"### {title}\n\n{markdown_table(HEADER, report_rows(report))}"
