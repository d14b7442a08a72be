"""The goals are measured on the parts that they name, and say by how much they are missed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from monai_train.data.manifest import read_manifest
from monai_train.evaluation.evaluate import measure_split
from monai_train.evaluation.metrics import binary_figures
from monai_train.export.goals import DEVELOPMENT, Figure, GoalRow, goals_markdown, measure_goals, stored_goals
from worker.errors import StartError


def test_a_goal_is_reached_or_missed_by_so_many_points() -> None:
    row = GoalRow("m", "g", (Figure(0.90, 0.95, n=10), Figure(0.12, 0.10, at_least=False), Figure(0.96, 0.95)))
    assert row.cells() == ("m", "g", "90.0 % (n=10) / 12.0 % / 96.0 %", "missed by 5.0 / 2.0")
    row = GoalRow("m", "g", (Figure(0.951, 0.95, interval=(0.9, 0.99), n=7), Figure(None, 0.95)), "a note")
    assert row.cells()[2:] == ("95.1 % (90.0-99.0, n=7) / -; a note", "reached")
    assert GoalRow("m", "g", (Figure(None, 0.95),)).cells()[2:] == ("-", "not measured")


@pytest.fixture(scope="module")
def development_data(sequences_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures in series, as if they were of the set whose test part the goals are measured on."""
    folder = tmp_path_factory.mktemp("goals") / "data"
    folder.mkdir()
    (folder / "images").symlink_to((sequences_data / "images").resolve())
    lines = list(csv.DictReader((sequences_data / "manifest.csv").read_text().splitlines()))
    for line in lines:
        if line["dataset"] == "main":
            line["dataset"] = DEVELOPMENT
            line["tumour_pixels"] = "0" if line["label"] == "notumor" else "200"
            line["head_pixels"] = "4000"
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*lines[0], "tumour_pixels", "head_pixels"])
        writer.writeheader()
        writer.writerows(lines)
    return folder


def test_every_goal_is_measured_on_the_part_that_it_names(exported_by_sequence: Path, development_data: Path) -> None:
    measured = measure_split(exported_by_sequence, development_data)
    rows = {row.measure: row for row in measure_goals(exported_by_sequence, development_data, measured)}
    of_slices = rows[f"{DEVELOPMENT}, T1C, slices of equal levels: sensitivity / specificity / not assessed"].figures
    middle = binary_figures(measured["test"].slices)  # both slices of each series lie between the levels
    assert [figure.value for figure in of_slices] == [
        middle["sensitivity"], middle["specificity"], middle["not_assessed"]
    ]  # fmt: skip
    assert of_slices[0].n == middle["n_tumour"] > 0

    found, on_lesion = rows[f"{DEVELOPMENT}, T1C, whole series: tumour found / by slices on the lesion"].figures
    test = {row.series for row in measured["test"].rows}
    assert found.n == len(test) < len({row.series for row in read_manifest(development_data)})
    assert on_lesion.value is None or on_lesion.n <= found.n
    assert rows[f"{DEVELOPMENT}, T1, whole series: tumour found / by slices on the lesion"].figures[0].value is None
    text = goals_markdown(rows.values())
    assert "not measured" in text
    assert "ms of a core" in text


def test_rows_of_other_programs_are_read_from_their_files_or_name_the_program(tmp_path: Path) -> None:
    assert [row.cells()[2:] for row in stored_goals(None, None)] == [
        ("`monai-train crossval --dataset cheng`", "not measured"),
        ("`benchmarks/series_type.py --truth`", "not measured"),
    ]
    folds, types = tmp_path / "report.json", tmp_path / "types.json"
    level = {"balanced_accuracy": 0.906, "balanced_accuracy_ci": [0.865, 0.944], "n": 178}
    folds.write_text(json.dumps({"patient": level, "slice": {**level, "balanced_accuracy": 0.95, "n": 2501}}))
    types.write_text(json.dumps({"right": 18, "n": 18}))
    assert [row.cells()[2:] for row in stored_goals(folds, types)] == [
        ("90.6 % (86.5-94.4, n=178) / 95.0 % (86.5-94.4, n=2501)", "missed by 4.4"),
        ("100.0 % (81.5-100.0, n=18)", "reached"),
    ]


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"right": 0, "n": 0}', '{"patient": {}}'])
def test_a_file_without_the_figures_is_named(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    if content is not None:
        path.write_text(content)
    for files in ((path, None), (None, path)):
        with pytest.raises(StartError, match=r"figures\.json"):
            stored_goals(*files)
