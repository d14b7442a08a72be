"""Training and test examples of every protocol: splits that leak are counted as such, patients stay apart."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_train.data.manifest import ManifestRow
from monai_train.systems.definitions import Protocol, Task
from monai_train.systems.protocols import count_known, split_by_protocol, start_from_default, take_fraction, task_class
from tests.testbed.converted import CLASSES
from tests.testbed.reference_systems import manifest_row, rows_of_patients
from worker.errors import StartError

_TWO = ["notumor", "tumor"]


def test_what_the_shipped_model_learned_from_counts_as_known() -> None:
    shared = [manifest_row(n, label, f"{label}-{n}") for n, label in enumerate(_TWO * 40)]
    copies = [manifest_row(100 + n, entry.label, entry.patient_group, "navoneel") for n, entry in enumerate(shared)]
    new = [manifest_row(200 + n, label, f"new-{n}", "navoneel") for n, label in enumerate(_TWO * 40)]
    rows = [*shared, *copies, *new]
    for protocol in (Protocol.RANDOM_TEST, Protocol.GROUPED):
        split = split_by_protocol(rows, "navoneel", Task.YES_NO, protocol)
        pretrained = start_from_default(split, rows, protocol)
        assert {rows[i].dataset for i in pretrained.pretraining} == {"main"}
        if protocol is Protocol.GROUPED:
            assert count_known(pretrained, rows) == 0
            assert 0 < len(pretrained.test) < len(split.test)
        else:
            assert pretrained.test == split.test
            assert count_known(pretrained, rows) > count_known(split, rows)


@settings(max_examples=30, deadline=None)
@given(st.integers(12, 30), st.integers(1, 4), st.integers(0, 99))
def test_no_patient_is_on_two_sides_of_the_grouped_protocol(patients: int, each: int, shift: int) -> None:
    rows = [
        manifest_row(n, entry.label, f"{entry.patient_group}-{shift}", split=entry.split)
        for n, entry in enumerate(rows_of_patients(patients, each))
    ]
    try:
        split = split_by_protocol(rows, "main", Task.FOUR, Protocol.GROUPED)
    except StartError:
        return  # few patients can leave a class without a test
    assert not {rows[i].patient_group for i, _ in split.train} & {rows[i].patient_group for i, _ in split.test}
    assert count_known(split, rows) == 0


def test_altered_copies_before_the_split_leak_and_are_counted() -> None:
    rows = [manifest_row(n, CLASSES.any_tumour if n % 2 else CLASSES.no_tumour, f"g{n}") for n in range(100)]
    split = split_by_protocol(rows, "main", Task.YES_NO, Protocol.AUGMENT_FIRST)
    # Seven versions of a tumour, ten of none, 70/15/15 % of them.
    assert len(split.test) == math.floor(0.15 * (50 * 7 + 50 * 10))
    assert count_known(split, rows) > 0.9 * len(split.test)
    assert not set(split.train) & set(split.test)


def test_official_and_random_protocols_use_every_picture_once() -> None:
    rows = rows_of_patients(30)
    official = split_by_protocol(rows, "main", Task.FOUR, Protocol.OFFICIAL)
    assert {rows[i].split for i, _ in official.test} == {"test"}
    assert count_known(official, rows) == len(official.test)  # every patient here is in both folders
    held_out = split_by_protocol(rows, "main", Task.FOUR, Protocol.RANDOM_VALIDATION)
    assert len(held_out.test) == math.floor(0.2 * len(official.train))
    assert {i for i, _ in held_out.train + held_out.test} == {i for i, _ in official.train}
    assert len(split_by_protocol(rows, "main", Task.YES_NO, Protocol.RANDOM_TEST).test) == 51


@pytest.mark.parametrize(
    ("rows", "protocol", "message"),
    [
        (rows_of_patients(9, labels=(0, 1, 3)), Protocol.OFFICIAL, "class pituitary has 0 training"),
        ([*rows_of_patients(9, labels=(0, 1, 3)), manifest_row(999, 2, "x")], Protocol.OFFICIAL, "has 1 training"),
        (
            [*rows_of_patients(9, labels=(0, 1, 3)), manifest_row(998, 2, "x"), manifest_row(999, 2, "x")],
            Protocol.OFFICIAL, "0 test",
        ),
        (
            [manifest_row(n, CLASSES.any_tumour, "x") for n in range(9)],
            Protocol.OFFICIAL, "no picture of 'main' with the labels",
        ),
    ],
)  # fmt: skip
def test_class_that_is_empty_or_alone_is_refused(rows: list[ManifestRow], protocol: Protocol, message: str) -> None:
    with pytest.raises(StartError, match=message):
        split_by_protocol(rows, "main", Task.FOUR, protocol)


def test_fraction_keeps_every_class() -> None:
    rows = rows_of_patients(100)
    whole = split_by_protocol(rows, "main", Task.FOUR, Protocol.OFFICIAL)
    some = take_fraction(whole, rows, Task.FOUR, 0.25)
    assert [sum(task_class(rows[i], Task.FOUR) == c for i, _ in some.train) for c in range(4)] == [50] * 4
    assert [sum(task_class(rows[i], Task.FOUR) == c for i, _ in some.test) for c in range(4)] == [30] * 4  # the fewest
    assert set(some.train) <= set(whole.train)
    assert take_fraction(whole, rows, Task.FOUR, 1.0) == whole
