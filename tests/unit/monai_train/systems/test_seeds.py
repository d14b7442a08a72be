"""The five systems: splits that leak are counted as such, patients stay apart, rows are kept, the table tells."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from monai_train.data.labels import ANY_TUMOUR, NO_TUMOUR
from monai_train.data.manifest import ManifestRow
from monai_train.networks.registry import Classifier, network_definition
from monai_train.systems.definitions import OURS, Protocol, Recipe, System, Task, read_ours, read_systems
from monai_train.systems.fit import Examples, Fitting, fit
from monai_train.systems.protocols import known, part, start_from_default, take_fraction, task_class
from monai_train.systems.results import ensemble, figures_of, read
from monai_train.systems.seeds import Place, example_tensors, seeds, table_rows
from monai_train.systems.table import document, rows_of_system
from monai_train.training.train import DivergedError
from worker.errors import StartError

QUIET = Console(quiet=True)
TINY = Recipe(network="c-linear", size=32, epochs=3, batch=8, learning_rate=3e-3)


def row(index: int, label: int, group: str, dataset: str = "main", split: str = "train") -> ManifestRow:
    return ManifestRow(f"{index}.dcm", label, group, f"p{index}", dataset, f"{index:064x}", 9, 9, None, False, split)


def rows_of_patients(patients: int, each: int = 3, labels: tuple[int, ...] = (0, 1, 2, 3)) -> list[ManifestRow]:
    names = [(label, p, k) for label in labels for p in range(patients) for k in range(each)]
    return [row(n, label, f"{label}-{p}", split="test" if k == 0 else "train") for n, (label, p, k) in enumerate(names)]


def system(protocol: Protocol, task: Task = Task.FOUR, recipe: Recipe = TINY, ensemble: bool = False) -> System:
    return System(
        name="T", title="tiny", task=task, dataset="main", protocol=protocol, reported="0.5", network=(recipe,),
        goal=0.5, ensemble=ensemble,
    )  # fmt: skip


def test_the_five_files_are_read_and_share_ours() -> None:
    systems = read_systems()
    assert [one.name for one in systems] == ["A", "B", "C", "D", "E"]
    jobs = table_rows(systems, read_ours())
    assert len({job.key for job in jobs}) == len(jobs)
    for one in systems:
        assert (OURS, Protocol.GROUPED) in rows_of_system(one)
        for recipe in one.network:
            network_definition(recipe.network, 4)


def test_what_the_shipped_model_learned_from_counts_as_known() -> None:
    shared = [row(n, label, f"{label}-{n}") for n, label in enumerate([NO_TUMOUR, ANY_TUMOUR] * 40)]
    copies = [row(100 + n, one.label, one.patient_group, "navoneel") for n, one in enumerate(shared)]
    new = [row(200 + n, label, f"new-{n}", "navoneel") for n, label in enumerate([NO_TUMOUR, ANY_TUMOUR] * 40)]
    rows = [*shared, *copies, *new]
    for protocol in (Protocol.RANDOM_TEST, Protocol.GROUPED):
        parts = part(rows, "navoneel", Task.YES_NO, protocol)
        begun = start_from_default(parts, rows, protocol)
        assert {rows[i].dataset for i in begun.before} == {"main"}
        if protocol is Protocol.GROUPED:
            assert known(begun, rows) == 0
            assert 0 < len(begun.test) < len(parts.test)
        else:
            assert begun.test == parts.test
            assert known(begun, rows) > known(parts, rows)


@settings(max_examples=30, deadline=None)
@given(st.integers(12, 30), st.integers(1, 4), st.integers(0, 99))
def test_no_patient_is_on_two_sides_of_the_grouped_protocol(patients: int, each: int, shift: int) -> None:
    rows = [
        row(n, one.label, f"{one.patient_group}-{shift}", split=one.split)
        for n, one in enumerate(rows_of_patients(patients, each))
    ]
    try:
        parts = part(rows, "main", Task.FOUR, Protocol.GROUPED)
    except StartError:
        return  # few patients can leave a class without a test
    assert not {rows[i].patient_group for i, _ in parts.train} & {rows[i].patient_group for i, _ in parts.test}
    assert known(parts, rows) == 0


def test_altered_copies_before_the_split_leak_and_are_counted() -> None:
    rows = [row(n, ANY_TUMOUR if n % 2 else NO_TUMOUR, f"g{n}") for n in range(100)]
    parts = part(rows, "main", Task.YES_NO, Protocol.AUGMENT_FIRST)
    # Seven versions of a tumour, ten of none, 70/15/15 % of them.
    assert len(parts.test) == math.floor(0.15 * (50 * 7 + 50 * 10))
    assert known(parts, rows) > 0.9 * len(parts.test)
    assert not set(parts.train) & set(parts.test)


def test_official_and_random_protocols_use_every_picture_once() -> None:
    rows = rows_of_patients(30)
    official = part(rows, "main", Task.FOUR, Protocol.OFFICIAL)
    assert {rows[i].split for i, _ in official.test} == {"test"}
    assert known(official, rows) == len(official.test)  # every patient here is in both folders
    held = part(rows, "main", Task.FOUR, Protocol.RANDOM_VALIDATION)
    assert len(held.test) == math.floor(0.2 * len(official.train))
    assert {i for i, _ in held.train + held.test} == {i for i, _ in official.train}
    assert len(part(rows, "main", Task.YES_NO, Protocol.RANDOM_TEST).test) == 51


@pytest.mark.parametrize(
    ("rows", "protocol", "message"),
    [
        (rows_of_patients(9, labels=(0, 1, 3)), Protocol.OFFICIAL, "class pituitary has 0 training"),
        ([*rows_of_patients(9, labels=(0, 1, 3)), row(999, 2, "x")], Protocol.OFFICIAL, "has 1 training"),
        ([*rows_of_patients(9, labels=(0, 1, 3)), row(998, 2, "x"), row(999, 2, "x")], Protocol.OFFICIAL, "0 test"),
        ([row(n, ANY_TUMOUR, "x") for n in range(9)], Protocol.OFFICIAL, "no picture of 'main' with the labels"),
    ],
)  # fmt: skip
def test_class_that_is_empty_or_alone_is_refused(rows: list[ManifestRow], protocol: Protocol, message: str) -> None:
    with pytest.raises(StartError, match=message):
        part(rows, "main", Task.FOUR, protocol)


def test_fraction_keeps_every_class() -> None:
    rows = rows_of_patients(100)
    whole = part(rows, "main", Task.FOUR, Protocol.OFFICIAL)
    some = take_fraction(whole, rows, Task.FOUR, 0.25)
    assert [sum(task_class(rows[i], Task.FOUR) == c for i, _ in some.train) for c in range(4)] == [50] * 4
    assert [sum(task_class(rows[i], Task.FOUR) == c for i, _ in some.test) for c in range(4)] == [30] * 4  # the fewest
    assert set(some.train) <= set(whole.train)
    assert take_fraction(whole, rows, Task.FOUR, 1.0) == whole


def test_copies_are_altered_and_the_same_every_time() -> None:
    rows = [row(0, NO_TUMOUR, "a"), row(1, ANY_TUMOUR, "b")]
    pixels = {
        i: (torch.rand(1, 40, 40, generator=torch.Generator().manual_seed(i)) * 255).to(torch.uint8) for i in (0, 1)
    }
    made = example_tensors([(0, 0), (0, 1), (1, 1)], rows, pixels, Task.YES_NO)
    again = example_tensors([(0, 0), (0, 1), (1, 1)], rows, pixels, Task.YES_NO)
    assert torch.equal(made.pixels, again.pixels)
    assert torch.equal(made.pixels[0], pixels[0])
    assert not torch.equal(made.pixels[1], pixels[0])
    assert made.labels.tolist() == [1, 1, 0]


@pytest.mark.parametrize("task", list(Task))
def test_figures_agree_with_scikit_learn(task: Task) -> None:
    generator = np.random.default_rng(0)
    classes = 4 if task is Task.FOUR else 2
    truths = generator.integers(0, classes, 60).tolist()
    answers = generator.random((60, classes))
    found = figures_of(answers, truths, list(range(60)), task)
    predicted = answers.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(accuracy_score(truths, predicted))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truths, predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(truths, predicted, average="macro"))
    low, high = found["accuracy_ci"]
    assert low < found["accuracy"] < high


def test_rows_are_kept_and_the_table_tells(tiny_data: Path, tmp_path: Path) -> None:
    place = Place(tiny_data, tmp_path, 1.0, "cpu", {})
    tiny = system(Protocol.RANDOM_VALIDATION, ensemble=True)
    text = seeds([tiny], place, {task: TINY for task in Task}, None, QUIET)
    assert "c-linear" in text
    assert "**leaky**" in text
    assert "Ours must reach 50.0 %" in text
    files = sorted(path.name for path in (tmp_path / "rows").glob("*.json"))
    assert files == [
        "c-linear-random-validation-four.json", "ours-grouped-four.json", "ours-random-validation-four.json",
        "t-ensemble.json",
    ]  # fmt: skip
    assert len(list((tmp_path / "rows").glob("*.png"))) == 3
    stored = json.loads((tmp_path / "rows" / files[0]).read_text())
    assert len(stored["curves"]) == TINY.epochs
    assert sum(map(sum, stored["confusion_matrix"])) == stored["n_test"]
    alone, together = read(tmp_path / "rows", files[0][:-5]), read(tmp_path / "rows", "t-ensemble")
    assert alone is not None
    assert together is not None
    assert together.confusion_matrix == alone.confusion_matrix  # of one network
    assert ensemble("x", [alone, alone.model_copy(update={"truths": alone.truths[::-1]})]) is None
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "rows").glob("*-four.json")}
    (tmp_path / "rows" / "ours-grouped-four.json").write_text("{")  # cut off
    seeds([tiny], Place(tiny_data, tmp_path, 0.5, "cpu", {}), {task: TINY for task in Task}, None, QUIET)
    after = {path: path.stat().st_mtime_ns for path in before}
    changed = {path.name for path in before if after[path] != before[path]}
    assert changed == {"ours-grouped-four.json"}  # a smaller fraction does not replace a fuller row
    again = read(tmp_path / "rows", "ours-grouped-four")
    assert again is not None
    assert again.fraction == 0.5


def test_loss_that_is_not_a_number_is_a_row_that_says_so(tiny_data: Path, tmp_path: Path) -> None:
    wild = TINY.model_copy(update={"learning_rate": 1e30, "network": "e-cnn"})
    tiny = system(Protocol.RANDOM_VALIDATION, recipe=wild)
    text = seeds([tiny], Place(tiny_data, tmp_path, 1.0, "cpu", {}), {task: TINY for task in Task}, "e-cnn", QUIET)
    assert "the loss is not a number" in text
    examples = Examples(torch.zeros(8, 1, 32, 32, dtype=torch.uint8), torch.arange(8) % 4)
    torch.manual_seed(0)
    fitting = Fitting(Classifier(network_definition("e-cnn", 4)), examples, wild, False, 7, "cpu")
    with pytest.raises(DivergedError, match="not a number"):
        fit(fitting, examples)


def test_frozen_network_learns_its_last_layer_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Classifier(network_definition("vgg16", 2))
    before = {key: value.clone() for key, value in model.net.state_dict().items()}
    recipe = Recipe(network="vgg16", size=32, epochs=1, batch=4, learning_rate=1e-2, frozen=True)
    images = (torch.rand(8, 1, 32, 32) * 255).to(torch.uint8)
    examples = Examples(images, torch.arange(8) % 2)
    fit(Fitting(model, examples, recipe, True, 7, "cpu"), examples)
    changed = {key for key, value in model.net.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"head.weight", "head.bias"}


def test_weights_of_no_network_of_the_systems_are_refused(tiny_data: Path, tmp_path: Path) -> None:
    place = Place(tiny_data, tmp_path, 1.0, "cpu", {"vgg19": tmp_path})
    with pytest.raises(StartError, match="no network of these systems"):
        seeds([system(Protocol.RANDOM_VALIDATION)], place, {task: TINY for task in Task}, None, QUIET)


def test_what_was_not_measured_says_so() -> None:
    text = document([system(Protocol.OFFICIAL)], {}, "0 rows.")
    assert text.count("not measured") == 4
