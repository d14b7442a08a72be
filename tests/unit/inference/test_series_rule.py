from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from worker.errors import NotAssessable
from worker.inference.series_rule import (
    ChosenSequence,
    Declared,
    Judgement,
    Layout,
    SequenceRule,
    SeriesDecision,
    SeriesEvidence,
    SeriesLimits,
    check_region,
    check_supported,
    choose_sequence,
    class_probabilities,
    decide,
    judge,
    kind_probabilities,
    lesion_evidence,
    lesion_probability,
    read_slices,
    slice_probabilities,
    softmax,
    split_logits,
)

LAYOUT = Layout(
    classes=("glioma", "meningioma", "other", "notumor"),
    no_lesion="notumor",
    sequences=("T1", "T1C", "T2", "FLAIR", "other"),
    regions=("brain", "head", "other"),
)
LIMITS = SeriesLimits(
    neighbourhood_mm=10.0,
    minimum_brain=0.5,
    minimum_brain_slices=0.2,
    minimum_in_distribution=0.3,
    minimum_sequence=0.6,
    contradiction=0.9,
)
RULE = SequenceRule(
    supported=True,
    planes=("axial",),
    slope=1.0,
    offset=0.0,
    per_slices=0.0,
    lesion_from=0.7,
    no_lesion_to=0.3,
    kind_temperature=1.0,
    minimum_kind=0.6,
    reliable_kinds=("glioma", "other"),
)


def logits(evidence: Any, *, kind: int = 0, sequence: int = 2, brain: Any = 9.0, sure: float = 20.0) -> Any:
    """Slices whose log odds of a lesion are `evidence`, of a kind, a sequence and with a region logit of brain."""
    evidence = np.asarray(evidence, float)
    made = np.zeros((len(evidence), LAYOUT.outputs))
    made[:, :3] = -sure
    made[:, kind] = evidence
    made[:, 4 + sequence] = sure
    made[:, 9] = brain
    return made


def read(made: Any, positions: Any = None, limits: SeriesLimits = LIMITS, far: tuple[int, ...] = ()) -> SeriesEvidence:
    in_distribution = np.ones(len(made), bool)
    in_distribution[list(far)] = False
    return read_slices(made, in_distribution, None if positions is None else np.array(positions), LAYOUT, limits)


@given(arrays.arrays(np.float32, (6, LAYOUT.outputs), elements=st.floats(-80, 80, width=32)))
def test_the_evidence_is_the_log_odds_of_a_lesion(made: Any) -> None:
    classes, sequences, regions = split_logits(made, LAYOUT)
    assert (classes.shape, sequences.shape, regions.shape) == ((6, 4), (6, 5), (6, 3))
    lesion = softmax(classes)[:, :3].sum(axis=1)
    np.testing.assert_allclose(1 / (1 + np.exp(-lesion_evidence(classes, LAYOUT))), lesion, atol=1e-9)


def test_slices_with_brain_in_distribution_have_a_say() -> None:
    made = logits([0] * 5, brain=[9, 9, 9, -9, 9])
    made[4, 1] = np.nan
    evidence = read(made, far=(1,))
    assert evidence.has_say.tolist() == [True, False, True, False, False]
    assert evidence.brain_share == pytest.approx(4 / 5)
    assert evidence.in_distribution_share == pytest.approx(3 / 4)
    assert evidence.slices_with_say == 2


@pytest.mark.parametrize(
    ("spacing", "neighbours"), [(None, 1), (7.0, 1), (5.5, 1), (5.0, 1), (3.0, 1), (2.5, 2), (1.0, 5), (11.0, 0)]
)
def test_a_window_spans_the_neighbourhood_and_at_least_the_next_slices(spacing: float | None, neighbours: int) -> None:
    values = np.zeros(31)
    values[15] = 7.0
    positions = None if spacing is None else np.arange(31) * spacing - 100.3
    evidence = read(logits(values), positions)
    assert evidence.strongest == pytest.approx(7 / (2 * neighbours + 1))
    touched = np.flatnonzero(evidence.window_means > 0.1)
    assert (touched.min(), touched.max()) == (15 - neighbours, 15 + neighbours)
    assert evidence.best_window.sum() == 2 * neighbours + 1


def test_slices_without_a_say_count_in_no_window() -> None:
    evidence = read(logits([0, 6, 90, 3, 0], brain=[9, 9, -9, 9, 9]), [0, 5, 10, 15, 20])
    np.testing.assert_allclose(evidence.window_means, [3, 3, -np.inf, 1.5, 1.5])
    assert evidence.best_window.tolist() == [True, True, False, False, False]


def test_a_single_slice_is_its_own_window() -> None:
    for positions in (None, [3.0]):
        evidence = read(logits([4.0]), positions)
        assert evidence.strongest == pytest.approx(4)
        assert evidence.best_window.tolist() == [True]


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=40), st.data())
def test_windows_are_means_within_reach(values: list[float], data: st.DataObject) -> None:
    steps = data.draw(st.lists(st.floats(0.5, 12), min_size=len(values), max_size=len(values)))
    brains = np.array(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    positions = np.cumsum(steps)
    evidence = read(logits(values, brain=np.where(brains, 9, -9)), positions)
    for i in np.flatnonzero(brains):
        distance = np.abs(positions - positions[i])
        near = (distance <= 5.01) | ((np.abs(np.arange(len(values)) - i) == 1) & (distance <= 10.01))
        assert evidence.window_means[i] == pytest.approx(evidence.evidence[near & brains].mean(), abs=1e-9)
    assert np.isneginf(evidence.window_means[~brains]).all()


@pytest.mark.parametrize(
    ("made", "far", "reason", "detail"),
    [
        (logits([5] * 10, brain=-9), (), "not-a-brain", "0 of 10 slices show a brain"),
        (logits([5] * 10, brain=[9] + [-9] * 9), (), "not-a-brain", "1 of 10 slices"),
        (logits([5] * 10), (0, 1, 2, 3, 4, 5, 6, 7), "out-of-distribution", "2 of 10 slices with brain"),
        (logits([np.nan] * 3), (), "out-of-distribution", "3 of 3"),
    ],
)
def test_what_shows_too_little_brain_is_not_judged(made: Any, far: Any, reason: str, detail: str) -> None:
    with pytest.raises(NotAssessable) as raised:
        check_region(read(made, far=far), LIMITS)
    assert raised.value.reason == reason
    assert detail in raised.value.detail


def test_limits_of_zero_still_need_a_slice_with_a_say() -> None:
    none = replace(LIMITS, minimum_brain_slices=0, minimum_in_distribution=0)
    for made, far in ((logits([5], brain=-9), ()), (logits([5]), (0,))):
        with pytest.raises(NotAssessable):
            check_region(read(made, far=far), none)
    check_region(read(logits([5])), none)


def seen(**shares: float) -> Any:
    return np.array([shares.get(name, 0.0) for name in LAYOUT.sequences])


@pytest.mark.parametrize(
    ("declared", "agent", "shares", "chosen"),
    [
        ("T2", None, {"T2": 1.0}, ("T2", "header")),
        ("T2", None, {"FLAIR": 0.8, "T2": 0.2}, ("T2", "header")),  # not sure enough to contradict
        ("FLAIR", True, {"FLAIR": 1.0}, ("FLAIR", "header")),
        ("T1", True, {"T1": 1.0}, ("T1C", "header")),
        ("T1", False, {"T1C": 1.0}, ("T1", "header")),
        ("T1", None, {"T1C": 0.6, "T1": 0.4}, ("T1C", "header")),
        ("T1", None, {"T1C": 0.4, "T1": 0.6}, ("T1", "header")),
        (None, None, {"FLAIR": 0.7, "T2": 0.3}, ("FLAIR", "pixels")),
        (None, None, {"T1C": 0.45, "T1": 0.40, "T2": 0.15}, ("T1C", "pixels")),
        (None, True, {"T1": 0.9}, ("T1C", "pixels")),
        (None, None, {"other": 0.9}, ("other", "pixels")),
    ],
)
def test_the_sequence_of_a_series(declared: Any, agent: Any, shares: Any, chosen: tuple[str, str]) -> None:
    found = choose_sequence(Declared(declared, agent), seen(**shares), LAYOUT.sequences, LIMITS)
    assert (found.name, found.source) == chosen


@pytest.mark.parametrize(
    ("declared", "agent", "shares", "reason", "words"),
    [
        ("PD", None, {"T2": 1.0}, "sequence-not-supported", "does not know the sequence PD"),
        (None, None, {"T2": 0.5, "FLAIR": 0.5}, "sequence-not-supported", "which sequence it is"),
        (None, None, {}, "sequence-not-supported", "which sequence it is"),
        ("T1", None, {"T2": 0.95}, "sequence-contradiction", "says T1, the images look like T2 (probability 0.95)"),
        ("T1", True, {"FLAIR": 0.9}, "sequence-contradiction", "says T1C, the images look like FLAIR"),
        ("T2", None, {"other": 1.0}, "sequence-contradiction", "another sequence"),
        ("T2", None, {"T1": 0.5, "T1C": 0.5}, "sequence-contradiction", "look like T1"),
    ],
)
def test_a_sequence_that_cannot_be_used_has_a_reason(
    declared: Any, agent: Any, shares: Any, reason: str, words: str
) -> None:
    with pytest.raises(NotAssessable) as raised:
        choose_sequence(Declared(declared, agent), seen(**shares), LAYOUT.sequences, LIMITS)
    assert raised.value.reason == reason
    assert words in raised.value.detail


def test_half_a_contrast_agent_is_a_contradiction() -> None:
    for declared in (Declared("T1", True, agent_is_mixed=True), Declared(None, True, agent_is_mixed=True)):
        with pytest.raises(NotAssessable) as raised:
            choose_sequence(declared, seen(T1=1.0), LAYOUT.sequences, LIMITS)
        assert raised.value.reason == "sequence-contradiction"
        assert "others name none" in raised.value.detail
    mixed = Declared("FLAIR", True, agent_is_mixed=True)  # where it does not matter
    assert choose_sequence(mixed, seen(FLAIR=1.0), LAYOUT.sequences, LIMITS).name == "FLAIR"


def test_a_model_without_t1c_does_not_take_it_for_t1() -> None:
    sequences = ("T1", "T2", "other")
    assert choose_sequence(Declared("T1"), np.array([0.9, 0.1, 0]), sequences, LIMITS).name == "T1"
    with pytest.raises(NotAssessable, match="T1C"):
        choose_sequence(Declared("T1", True), np.array([0.9, 0.1, 0]), sequences, LIMITS)


def test_a_sequence_or_plane_without_answers_is_named() -> None:
    rules = {"T2": RULE, "other": replace(RULE, supported=False)}
    t2 = choose_sequence(Declared("T2"), seen(T2=1.0), LAYOUT.sequences, LIMITS)
    assert check_supported(t2, "axial", rules) == check_supported(t2, None, rules) == RULE
    with pytest.raises(NotAssessable, match="T2 in axial slices; these are sagittal"):
        check_supported(t2, "sagittal", rules)
    other = choose_sequence(Declared(), seen(other=1.0), LAYOUT.sequences, LIMITS)
    with pytest.raises(NotAssessable, match=r"other \(by the look of the images\)"):
        check_supported(other, "axial", rules)


def test_more_slices_need_more_evidence() -> None:
    rule = replace(RULE, slope=2.0, offset=-1.0, per_slices=0.5)
    assert lesion_probability(1.5, 1, rule) == pytest.approx(1 / (1 + math.exp(-2)))
    assert lesion_probability(1.5, 100, rule) == pytest.approx(1 / (1 + math.exp(-(2 - 0.5 * math.log(100)))))
    np.testing.assert_array_equal(lesion_probability([-1e9, 1e9], 1, rule), [0, 1])


def test_probabilities_are_those_of_the_kinds_given_a_lesion() -> None:
    rule = replace(RULE, kind_temperature=2.0)
    kinds = kind_probabilities(np.array([[2.0, 0.0, -800.0, 50.0]]), LAYOUT, rule)
    np.testing.assert_allclose(kinds, [[math.e / (math.e + 1), 1 / (math.e + 1), 0, 0]], atol=1e-12)
    np.testing.assert_allclose(class_probabilities(np.array([0.25]), kinds, LAYOUT)[0, 3], 0.75)
    one = slice_probabilities(logits([2.0], kind=1), LAYOUT, RULE)
    np.testing.assert_allclose(one, [[0, 1 / (1 + math.exp(-2)), 0, 1 / (1 + math.exp(2))]], atol=1e-6)


@pytest.mark.parametrize(
    ("evidence", "kind", "label"),
    [
        ([-9] * 5, 0, "notumor"),
        ([-9, 4, 4, 4, -9], 0, "glioma"),
        ([-9, 4, 4, 4, -9], 2, "other"),
        ([-9, 4, 4, 4, -9], 1, "tumor"),  # a kind that is not reliable
        ([0] * 5, 0, None),
        ([-9, -9, 9, -9, -9], 0, "notumor"),  # neighbours do not confirm it
    ],
)
def test_the_answer_for_a_series(evidence: list[float], kind: int, label: str | None) -> None:
    made = logits(evidence, kind=kind)
    decision = decide(read(made), made, LAYOUT, RULE, "tumor")
    assert decision.label == label
    assert decision.probabilities.sum() == pytest.approx(1)
    assert decision.probabilities[3] == pytest.approx(1 - decision.lesion_probability)
    expected = decision.lesion_probability
    if label in LAYOUT.classes:
        expected = decision.probabilities[LAYOUT.classes.index(label)]
    assert decision.probability == pytest.approx(expected)


def test_a_kind_that_is_not_sure_is_not_named() -> None:
    made = logits([4.0] * 3)
    made[:, 1] = 3.9
    decision = decide(read(made), made, LAYOUT, RULE, "tumor")
    assert decision.label == "tumor"
    assert decision.probabilities[0] > decision.probabilities[1] > 0.4


RULES = {"T1": RULE, "T1C": RULE, "T2": RULE, "FLAIR": RULE, "other": replace(RULE, supported=False)}


def _judge(made: Any, declared: Declared, plane: str | None = "axial") -> Judgement:
    in_distribution = np.ones(len(made), bool)
    return judge(made, in_distribution, None, plane, declared, SeriesDecision(LAYOUT, LIMITS, RULES, "tumor"))


def test_a_series_is_judged_step_by_step() -> None:
    judged = _judge(logits([-9, 4, 4, 4, -9]), Declared("T2"))
    assert judged.refusal is None
    assert judged.decision is not None
    assert judged.decision.label == "glioma"
    assert judged.chosen == ChosenSequence("T2", "header")


@pytest.mark.parametrize(
    ("made", "declared", "plane", "reason", "words"),
    [
        (logits([9] * 4, brain=-9), Declared("T2", body_part="BRAIN"), "axial", "not-a-brain", "body part BRAIN"),
        (logits([9] * 4, brain=-9), Declared("T2"), "axial", "not-a-brain", "0 of 4 slices show a brain."),
        (logits([9] * 4), Declared("FLAIR"), "axial", "sequence-contradiction", "says FLAIR"),
        (logits([9] * 4), Declared("DWI"), "axial", "sequence-not-supported", "DWI"),
        (logits([9] * 4, sequence=4), Declared(), "axial", "sequence-not-supported", "other"),
        (logits([9] * 4), Declared("T2"), "coronal", "sequence-not-supported", "these are coronal"),
        (logits([0] * 4), Declared("T2"), "axial", "too-uncertain", "is 0.50; on T2 the model answers up to 0.30"),
    ],
)
def test_a_series_that_is_not_assessed_keeps_the_reason(
    made: Any, declared: Declared, plane: str, reason: str, words: str
) -> None:
    refusal = _judge(made, declared, plane).refusal
    assert refusal is not None
    assert refusal.reason == reason
    assert words in refusal.detail
