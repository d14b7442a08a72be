"""The table of the reference systems."""

from __future__ import annotations

from pathlib import Path

from monai_train.systems.definitions import OURS, Protocol, Task, read_systems
from monai_train.systems.results import RowResult
from monai_train.systems.table import reference_document, row_key, rows_of_system
from tests.testbed.reference_systems import tiny_system

DOCUMENT = Path(__file__).parents[4] / "docs/reference-systems.md"


def row_result(**changes: object) -> RowResult:
    fields = {
        "key": "x", "network": "c-linear", "task": Task.FOUR, "protocol": Protocol.OFFICIAL, "fraction": 1.0,
        "inputs": "", "weights": "scratch", "commit": "", "device": "cpu", "epochs": 1, "parameters": 9, "n_train": 40,
        "n_test": 20, "n_test_known": 0, "patients_test": 9, "training_accuracy": 0.9, "accuracy": 0.8,
        "accuracy_ci": (0.7, 0.9), "balanced_accuracy": 0.75, "macro_f1": 0.74, "labels": (), "confusion_matrix": [],
        "curves": [], "truths": [], "patient_numbers": [], "probabilities": [], "seconds": 1.0,
    }  # fmt: skip
    return RowResult.model_validate(fields | changes)


def lines_of(result: RowResult) -> list[str]:
    system = tiny_system(Protocol.OFFICIAL)
    text = reference_document([system], {row_key(system, "c-linear", Protocol.OFFICIAL): result}, "1 row.")
    return [line for line in text.splitlines() if line.startswith("| c-linear")]


def test_what_was_not_measured_says_so() -> None:
    text = reference_document([tiny_system(Protocol.OFFICIAL)], {}, "0 rows.")
    assert text.count("not measured") == 4


def test_a_row_shows_figures_with_interval_and_n() -> None:
    assert lines_of(row_result()) == [
        "| c-linear | official | 0.5 | 80.0 % (70.0-90.0) | 0.740 | 0.750 | 0.900 | 40 | 20 (9 patients) | 0 | 100 % "
        "| scratch |"
    ]


def test_a_row_whose_test_is_known_is_marked_as_leaky_and_one_without_width_has_no_interval() -> None:
    [line] = lines_of(row_result(n_test_known=3, accuracy_ci=None))
    assert "| official (**leaky**) | 0.5 | 80.0 % | 0.740 |" in line


def test_a_loss_that_is_not_a_number_stands_in_its_row() -> None:
    [line] = lines_of(row_result(accuracy=None, fault="the loss is not a number in step 3"))
    assert "the loss is not a number in step 3" in line
    assert line.count("|") == 13


def test_the_goal_is_judged_by_ours_on_the_systems_own_protocol() -> None:
    system = tiny_system(Protocol.OFFICIAL)
    key = row_key(system, OURS, Protocol.OFFICIAL)
    for accuracy, verdict in ((0.8, "reached, 80.0 %"), (0.4, "10.0 points short on 5 % of the pictures")):
        fraction = 1.0 if accuracy == 0.8 else 0.05
        text = reference_document([system], {key: row_result(accuracy=accuracy, fraction=fraction)}, "")
        assert f"Ours must reach 50.0 % on that protocol: {verdict}." in text


def test_the_committed_document_has_the_words_and_rows_of_this_program() -> None:
    """Its figures are measured; everything else is what the program would write today."""
    committed = DOCUMENT.read_text()
    how = committed.split("do not edit. ")[1].split("\n")[0]
    systems = read_systems()
    written = reference_document(systems, {}, how)
    assert committed.split("## A:")[0] == written.split("## A:")[0]
    for system in systems:
        section = committed.split(f"## {system.name}: {system.title}\n")[1].split("\n## ")[0]
        shown = [line.split(" | ")[:2] for line in section.splitlines() if line.startswith("| ")][1:]
        expected = [
            [f"| **{network}**" if network == OURS else f"| {network}", protocol]
            for network, protocol in rows_of_system(system)
        ]
        named = [[network, protocol.removesuffix(" (**leaky**)")] for network, protocol in shown]
        assert named[: len(expected)] == expected
