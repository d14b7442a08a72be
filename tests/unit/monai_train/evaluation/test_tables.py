"""The tables of figures as GitHub Flavored Markdown, read back by the parser that the page of a model uses."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise

import numpy as np
from markdown_it import MarkdownIt
from rich.console import Console

from monai_train.evaluation.cohorts import group_figures
from monai_train.evaluation.evaluate import Measurement
from monai_train.evaluation.metrics import Predictions
from monai_train.evaluation.tables import (
    HEADER,
    group_markdown,
    group_rows,
    group_table,
    markdown_table,
    report_markdown,
    report_rows,
    report_table,
)
from tests.testbed.converted import CLASSES
from tests.testbed.reference_systems import manifest_row


def cells_of(markdown: str) -> list[list[str]]:
    """The rows of the only table of a document, head first."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    assert [token.type for token in tokens].count("table_open") == 1
    rows: list[list[str]] = []
    for before, token in pairwise(tokens):
        if before.type == "tr_open":
            rows.append([])
        if before.type in ("th_open", "td_open"):
            rows[-1].append(token.content)
    return rows


def measured() -> Measurement:
    probabilities = np.eye(4, dtype=np.float32)[[0, 1, 3, 3, 0]]
    truth, groups = np.array([0, 1, 2, 3, CLASSES.any_tumour]), np.array(list("abcdd"))
    answers = Predictions(CLASSES, truth, probabilities, groups, np.array([True, True, False, True, True]))
    return Measurement(answers, answers)


def test_every_cell_is_read_back_whatever_is_in_it() -> None:
    rows = [["a|b", "90.1 % (85.8-93.7)"], ["", "long enough to widen the column"]]
    assert cells_of(markdown_table(["figure", "x"], rows)) == [["figure", "x"], *rows]


def test_columns_stand_under_one_another_as_plain_text() -> None:
    lines = markdown_table(["figure", "n"], [["recall", "7"], ["balanced accuracy", "124"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert set(lines[1]) == set("|- ")


def test_report_has_a_heading_and_each_figure_with_its_n() -> None:
    report = measured().to_json()
    text = report_markdown("Test part", report)
    assert text.startswith("### Test part\n\n| figure ")
    head, *rows = cells_of(text)
    assert tuple(head) == HEADER
    assert [tuple(row) for row in rows] == report_rows(report)
    shown = {name: slices for name, slices, _ in rows}
    assert shown["n"] == "5 (4 patients)"
    assert shown["accuracy"] == "80.0 % (22.8-99.8)"
    assert shown["recall tumor"] == "100.0 % (2.5-100.0) (n=1)"
    assert shown["sensitivity"].startswith("75.0 % (")
    assert shown["sensitivity"].endswith("(n=4)")
    assert shown["not assessed"] == "20.0 % (0.2-77.2)"


def test_the_terminal_shows_the_same_rows() -> None:
    report = measured().to_json()
    stream = io.StringIO()
    Console(width=120, file=stream).print(report_table("Test part", report))
    text = stream.getvalue()
    assert all(cell in text for row in report_rows(report) for cell in row)


def test_balanced_accuracy_is_left_out_where_only_tumours_or_none_occur() -> None:
    answers = measured().slices
    healthy = answers.truth == 3
    parts = (answers.truth, answers.probabilities, answers.groups, answers.assessed)
    of_one_kind = Predictions(CLASSES, *(part[healthy] for part in parts))
    names = [name for name, _, _ in report_rows(Measurement(of_one_kind, of_one_kind).to_json())]
    assert "balanced accuracy" not in names
    assert "accuracy" in names


def test_groups_are_a_row_each_on_the_terminal_and_in_markdown() -> None:
    rows = [replace(manifest_row(n, n % 2 * 3, str(n), "x" if n < 4 else "y"), sequence="T1") for n in range(8)]
    truth = np.array([0, 3] * 4)
    groups = np.array([row.patient_group for row in rows])
    answers = Predictions(CLASSES, truth, np.eye(4, dtype=np.float32)[truth], groups, np.ones(8, bool))
    found = group_figures(answers, rows)
    assert [row[:2] for row in group_rows(found)] == [
        ("sequence: T1", "8 (8)"),
        ("source: x", "4 (4)"),
        ("source: y", "4 (4)"),
    ]
    assert group_rows(found)[1][2] == "100.0 % (15.8-100.0) (n=2)"
    console = Console(width=160, record=True)
    console.print(group_table(found))
    assert "sequence: T1" in console.export_text()
    narrow = Console(width=80, record=True)
    narrow.print(group_table(found))
    assert "…" not in narrow.export_text()
    assert group_markdown(found).count("\n") == 4
    assert group_markdown({}) == ""
