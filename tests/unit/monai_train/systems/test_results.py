"""The figures of a row against scikit-learn, and the rows as they are stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from monai_train.systems.definitions import Task
from monai_train.systems.results import answer_figures, ensemble_result, read_result


@pytest.mark.parametrize("task", list(Task))
def test_figures_agree_with_scikit_learn(task: Task) -> None:
    generator = np.random.default_rng(0)
    classes = 4 if task is Task.FOUR else 2
    truths = generator.integers(0, classes, 60).tolist()
    answers = generator.random((60, classes))
    found = answer_figures(answers, truths, list(range(60)), task)
    predicted = answers.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(accuracy_score(truths, predicted))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truths, predicted))
    assert found["macro_f1"] == pytest.approx(f1_score(truths, predicted, average="macro"))
    low, high = found["accuracy_ci"]
    assert low < found["accuracy"] < high


def test_all_right_has_the_exact_interval_of_as_many_patients() -> None:
    found = answer_figures(
        np.eye(4)[[0, 1, 2, 3, 0, 1, 2, 3, 0]], [0, 1, 2, 3, 0, 1, 2, 3, 0], list(range(9)), Task.FOUR
    )
    assert found["accuracy_ci"] == (pytest.approx(0.025 ** (1 / 9)), 1)


def test_what_another_version_wrote_is_no_result(tmp_path: Path) -> None:
    assert read_result(tmp_path, "missing") is None
    (tmp_path / "old.json").write_text('{"key": "old"}')
    assert read_result(tmp_path, "old") is None


def test_an_ensemble_of_nothing_is_none() -> None:
    assert ensemble_result("x", []) is None
