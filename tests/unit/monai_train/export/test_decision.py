"""The rules of a bundle of format 2 are fitted on cases whose best rule is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from monai_train.export.decision import (
    Calibration,
    KindCase,
    LesionCase,
    fit_calibration,
    fit_kind_temperature,
    fit_per_slices,
    fit_rules,
    fit_thresholds,
    reliable_kinds,
)

NAMES = ("glioma", "meningioma", "other")


def _cases(count: int, slope: float, offset: float, per_slices: float, sequence: str = "T1") -> list[LesionCase]:
    """Cases whose truth is drawn by a known rule, half of them single slices."""
    generator = np.random.default_rng(5)
    evidence = generator.normal(0, 3, count)
    windows = np.where(np.arange(count) % 2, 1, 20)
    chance = 1 / (1 + np.exp(-(slope * evidence + offset - per_slices * np.log(windows))))
    truth = generator.random(count) < chance
    return [
        LesionCase(sequence, float(e), int(w), bool(t), f"p{index}")
        for index, (e, w, t) in enumerate(zip(evidence, windows, truth, strict=True))
    ]


def test_finds_the_rule_that_made_the_cases() -> None:
    found = fit_calibration(_cases(6000, 0.8, 0.0, 0.3))
    assert found.slope == pytest.approx(0.8, abs=0.1)
    assert found.per_slices == pytest.approx(0.3, abs=0.1)


def test_separated_cases_have_a_finite_slope() -> None:
    cases = [
        LesionCase("T1", 5.0 if lesion else -5.0, 1, lesion, f"{n}") for n in range(20) for lesion in (True, False)
    ]
    found = fit_calibration(cases)
    assert found.slope <= 5
    probability = found.probability(cases)
    assert probability[::2].min() > 0.9
    assert probability[1::2].max() < 0.1


def test_few_patients_hardly_move_the_calibration_from_the_evidence_itself() -> None:
    few = [LesionCase("T2", 0.0 if n % 2 else -6.0, 1, n % 2 == 1, f"p{n}") for n in range(10)]
    many = [replace(case, patient=f"{copy}{case.patient}") for copy in range(40) for case in few]
    assert 0.5 < fit_calibration(few).offset < 1.5  # the evidence of -3 is in the middle, but of ten patients
    assert fit_calibration(many).offset > 3


def test_cases_of_a_single_truth_are_refused() -> None:
    with pytest.raises(ValueError, match="with and without"):
        fit_calibration([LesionCase("T1", 1.0, 1, True, "a")])


def test_the_number_of_slices_does_not_tell_a_lesion_that_is_known_from_single_slices_only() -> None:
    both = _cases(600, 1.0, 0.0, 0.6)
    generator = np.random.default_rng(2)
    alone = [LesionCase("T2", float(e), 1, True, f"a{n}") for n, e in enumerate(generator.normal(3, 1, 60))]
    whole = [LesionCase("T2", float(e), 24, False, f"b{n}") for n, e in enumerate(generator.normal(-3, 1, 60))]
    own = fit_calibration([*alone, *whole])
    assert own.per_slices > 1  # alone, it would be what tells them apart
    per_slices = fit_per_slices([*both, *alone, *whole])
    assert per_slices["T1"] is None
    assert per_slices["T2"] == fit_calibration(both).per_slices
    rule = fit_rules([*both, *alone, *whole], [], ("T1", "T2"), NAMES)["T2"]
    calibration = Calibration(rule["slope"], rule["offset"], rule["per_slices"])
    [series] = calibration.probability([LesionCase("T2", 6.0, 24, True, "c")])
    assert rule["per_slices"] == per_slices["T2"]
    assert series > 0.5
    assert set(fit_per_slices([*alone, *whole]).values()) == {1.0}


def test_a_patient_of_many_slices_does_not_outweigh_the_others() -> None:
    few = [LesionCase("T1", 1.0, 1, n % 2 == 0, f"p{n}") for n in range(40)]
    many = few + [LesionCase("T1", 1.0, 1, True, "p0")] * 500
    assert fit_calibration(few).probability(few)[0] == pytest.approx(
        fit_calibration(many).probability(few)[0], abs=0.01
    )


def test_thresholds_meet_where_the_groups_are_apart() -> None:
    low, high = fit_thresholds(np.array([0.1, 0.2, 0.9, 0.8]), np.array([False, False, True, True]))
    assert low == high
    assert high == pytest.approx(0.5, abs=0.001)  # the middle of 0.2 and 0.8, by their log odds


def test_a_threshold_does_not_touch_a_group_that_is_far_from_the_other() -> None:
    low, high = fit_thresholds(np.array([0.01, 0.02, 0.9, 0.99]), np.array([False, False, True, True]))
    assert low == high == pytest.approx(0.3, abs=0.002)


def test_thresholds_leave_at_most_a_tenth_undecided_beyond_the_last_step() -> None:
    generator = np.random.default_rng(2)
    truth = np.arange(2000) % 2 == 0
    probability = np.clip(np.where(truth, 0.6, 0.4) + generator.normal(0, 0.15, 2000), 0, 1)
    low, high = fit_thresholds(probability, truth)
    assert low < high
    for group in (probability[truth], probability[~truth]):
        assert ((group >= low) & (group < high)).mean() <= 0.12


def test_the_temperature_softens_answers_that_are_too_sure() -> None:
    generator = np.random.default_rng(1)
    cases = [KindCase("T1C", (8.0, 0.0, 0.0), int(generator.random() < 0.4), f"p{n}") for n in range(400)]
    assert fit_kind_temperature(cases) > 3


def test_a_kind_is_reliable_where_its_name_is_right_for_enough_patients() -> None:
    right = [KindCase("T1C", (5.0, 0.0, 0.0), 0, f"p{n}") for n in range(12)]
    wrong = [KindCase("T1C", (0.0, 5.0, 0.0), n % 2, f"q{n}") for n in range(12)]
    assert reliable_kinds(right + wrong, NAMES, 1.0) == ["glioma"]
    assert reliable_kinds(right[:2] + wrong, NAMES, 1.0) == []
    assert reliable_kinds(right[:5] + wrong, NAMES, 1.0) == []  # five without an error may be wrong in two of five
    assert reliable_kinds(right[:6] + wrong, NAMES, 1.0) == ["glioma"]


def test_a_sequence_that_was_hardly_seen_is_not_supported() -> None:
    rules = fit_rules(_cases(400, 1.0, 0.0, 0.2), [], ("T1", "T2"), NAMES)
    assert rules["T1"]["supported"]
    assert 0 <= rules["T1"]["no_lesion_to"] <= rules["T1"]["lesion_from"] <= 1
    assert not rules["T2"]["supported"]
    assert rules["T2"]["reliable_kinds"] == []


def test_the_probability_falls_with_the_number_of_windows() -> None:
    rule = Calibration(1.0, 0.0, 0.5)
    slice_, series = rule.probability([LesionCase("T1", 1.0, 1, True, "a"), LesionCase("T1", 1.0, 30, True, "a")])
    assert slice_ > series


def test_a_kind_is_named_from_the_least_probability_that_is_reliable() -> None:
    sure = [KindCase("T1", (2.0, 0.0, 0.0), 0, f"p{n}") for n in range(12)]
    doubtful = [KindCase("T1", (1.2, 0.0, 0.0), 1, f"q{n}") for n in range(6)]
    rule = fit_rules(_cases(400, 1.0, 0.0, 0.2), sure + doubtful, ("T1",), NAMES)["T1"]
    assert rule["reliable_kinds"] == ["glioma"]
    assert rule["minimum_kind"] > 0.6


def test_a_kind_that_nothing_could_be_mistaken_for_is_not_reliable() -> None:
    assert reliable_kinds([KindCase("FLAIR", (5.0, 0.0, 0.0), 0, f"p{n}") for n in range(12)], NAMES, 1.0) == []
