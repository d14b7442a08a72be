"""Figures of patients with several sequences: all together against each alone, and what is said of it."""

from __future__ import annotations

from monai_train.evaluation.studies.fusion_figures import StudyCase, study_figures
from tests.testbed.results import MODEL_OF_LESIONS
from worker.inference.study.fusion import EQUAL_WEIGHTS, StudyRule
from worker.results import SeriesAnswer


def answer(sequence: str, lesion: float | None) -> SeriesAnswer:
    label = None if lesion is None else "tumor" if lesion >= 0.5 else "notumor"
    known = lesion if lesion is not None else 0.5
    probabilities = {"glioma": known, "meningioma": 0.0, "pituitary": 0.0, "other": 0.0, "notumor": 1 - known}
    return SeriesAnswer(
        sequence, None, sequence, None, label, None if label else "too-uncertain", lesion, probabilities
    )


def case(number: int, lesion: bool, **series: float | None) -> StudyCase:
    return StudyCase(f"p{number}", lesion, tuple(answer(name, value) for name, value in series.items()))


# T1 alone is right in half of the patients; together with T1C and FLAIR all are.
CASES = [
    *(case(n, True, T1=0.9 if n % 2 else 0.4, T1C=0.98, FLAIR=0.97) for n in range(12)),
    *(case(20 + n, False, T1=0.1 if n % 2 else 0.6, T1C=0.02, FLAIR=0.03) for n in range(12)),
]


def test_all_sequences_together_are_compared_with_each_on_the_same_patients() -> None:
    found = study_figures(
        [*CASES, case(50, True, T1=0.1)], MODEL_OF_LESIONS, StudyRule(lesion_from=0.8, no_lesion_to=0.2)
    )
    assert found is not None
    assert (found.n, found.patients) == (24, 24), "a patient with a single sequence is not compared"
    alone = {item.sequence: item.alone["balanced_accuracy"].value for item in found.comparisons}
    assert alone == {"FLAIR": 1, "T1": 0.5, "T1C": 1}
    t1 = next(item for item in found.comparisons if item.sequence == "T1")
    assert t1.fused["balanced_accuracy"].value == 1
    assert (t1.difference.low or 0) > 0.2
    assert t1.verdict.startswith("all sequences together is better than T1 alone: +50.0 points")
    assert "not shown to be better than" in found.best.verdict
    assert found.to_json()["by_sequence"]["T1"]["n"] == 24
    sensitivity = found.to_json()["fused"]["sensitivity"]
    assert sensitivity["low"] is not None
    assert (sensitivity["value"], sensitivity["n"]) == (1, 12)


def test_a_fused_answer_that_is_worse_is_called_worse() -> None:
    wrong = [
        *(case(n, True, T1=0.02, T2=0.03, FLAIR=0.9) for n in range(12)),
        *(case(20 + n, False, T1=0.02, T2=0.03, FLAIR=0.1) for n in range(12)),
    ]
    found = study_figures(wrong, MODEL_OF_LESIONS, StudyRule(no_lesion_to=0.3))
    assert found is not None
    assert found.best.sequence == "FLAIR"
    assert "is WORSE than FLAIR alone: -50.0 points" in found.to_json()["verdict"]


def test_a_study_that_is_not_assessed_counts_as_wrong() -> None:
    undecided = [case(n, bool(n % 2), T1=0.9, T1C=0.1) for n in range(10)]
    found = study_figures(undecided, MODEL_OF_LESIONS, EQUAL_WEIGHTS)
    assert found is not None
    assert found.disagree == 10
    assert found.fused["balanced_accuracy"].value == 0
    assert {item.fused_not_assessed for item in found.comparisons} == {1.0}
    assert {item.alone_not_assessed for item in found.comparisons} == {0.0}


def test_without_several_sequences_nothing_is_compared() -> None:
    assert study_figures([case(1, True, T1=0.9)], MODEL_OF_LESIONS, EQUAL_WEIGHTS) is None
