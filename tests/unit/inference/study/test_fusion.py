"""The answer for a study: its properties, on drawn studies, and tables of what is said."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.inference.study.fusion import (
    NO_SERIES,
    SERIES_DISAGREE,
    StudyRule,
    fuse,
    pooled_lesion_probability,
    series_answer,
)
from worker.results import (
    AnswerBasis,
    CodedConcept,
    ModelClass,
    ModelIdentity,
    ResultStatus,
    SeriesAnswer,
    SeriesResult,
    StudyResult,
)

BRAIN = CodedConcept("12738006", "SCT", "Brain")
FINDING = CodedConcept("393564001", "SCT", "Glioma")
CLASSES = (
    ModelClass("glioma", "Glioma", True, FINDING, BRAIN),
    ModelClass("meningioma", "Meningioma", True, FINDING, BRAIN),
    ModelClass("other", "Other lesion", False, FINDING, BRAIN),
    ModelClass("notumor", "No tumour", False, None, BRAIN),
)
UNDETERMINED = ModelClass("tumor", "Tumour, kind not determined", True, FINDING, BRAIN)
MODEL = ModelIdentity("m", "1", "us", "net", "0" * 64, CLASSES, "", "", UNDETERMINED)
RULE = StudyRule(weights={"T1C": 2.0, "T2": 0.5})
SEQUENCES = ("T1", "T1C", "T2", "FLAIR", None)


def answer(
    number: int,
    label: str | None,
    lesion: float,
    sequence: str | None = "T1",
    kinds: tuple[float, ...] = (0.8, 0.1, 0.1),
) -> SeriesAnswer:
    probabilities = {item.name: lesion * kind for item, kind in zip(CLASSES, kinds, strict=False)}
    return SeriesAnswer(
        series=f"1.2.{number}",
        number=number,
        sequence=sequence,
        plane="axial",
        label=label,
        reason=None if label else "too-uncertain",
        lesion_probability=lesion,
        probabilities=probabilities | {"notumor": 1 - lesion},
    )


def unassessed(number: int, reason: str = "not-a-brain") -> SeriesAnswer:
    return SeriesAnswer(f"1.2.{number}", number, None, None, None, reason, None, {})


@st.composite
def answers(draw: st.DrawFn, least: int = 1) -> list[SeriesAnswer]:
    """Assessed series: a label that its probability allows, of any sequence."""
    drawn = []
    for number in range(draw(st.integers(least, 7))):
        lesion = draw(st.floats(0, 1))
        label = draw(st.sampled_from(["glioma", "meningioma", "other", "tumor"])) if lesion >= 0.4 else "notumor"
        first = draw(st.floats(0, 1))
        second = draw(st.floats(0, 1 - first))
        kinds = (first, second, 1 - first - second)
        drawn.append(answer(number, label, lesion, draw(st.sampled_from(SEQUENCES)), kinds))
    return drawn


@given(answers(), st.randoms())
def test_the_order_of_the_series_is_irrelevant(series: list[SeriesAnswer], random: object) -> None:
    shuffled = list(series)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert fuse(shuffled, MODEL, RULE) == fuse(series, MODEL, RULE)


@given(answers())
def test_a_single_series_gives_its_own_answer(series: list[SeriesAnswer]) -> None:
    only = series[0]
    result = fuse([only], MODEL, RULE)
    assert (result.label, result.probabilities) == (only.label, only.probabilities)
    assert result.lesion_probability == only.lesion_probability
    assert result.deciding == only.series
    assert result.contradiction is None


def _essence(result: StudyResult) -> object:
    return replace(result, contributions=())


@given(answers(), st.integers(1, 4))
def test_a_series_that_is_not_assessed_changes_nothing_and_is_listed(series: list[SeriesAnswer], more: int) -> None:
    extra = [unassessed(100 + number) for number in range(more)] + [answer(99, None, 0.3)]
    with_them, without = fuse([*extra, *series], MODEL, RULE), fuse(series, MODEL, RULE)
    assert _essence(with_them) == _essence(without)
    assert {item.answer.series: item.weight for item in with_them.contributions}.items() >= {
        item.series: 0.0 for item in extra
    }.items()
    assert [item for item in with_them.contributions if item.weight] == list(without.contributions)


@given(answers(least=2))
def test_probabilities_are_probabilities_and_weights_shares(series: list[SeriesAnswer]) -> None:
    result = fuse(series, MODEL, RULE)
    assert math.isclose(sum(result.probabilities.values()), 1, abs_tol=1e-9)
    assert all(-1e-12 <= value <= 1 + 1e-12 for value in result.probabilities.values())
    assert math.isclose(sum(item.weight for item in result.contributions), 1)
    assert result.probability is None or 0 <= result.probability <= 1


@given(answers(least=2))
def test_series_that_agree_give_their_common_answer(series: list[SeriesAnswer]) -> None:
    result = fuse(series, MODEL, RULE)
    labels = {item.label for item in series}
    if len(labels) == 1:
        assert (result.label, result.contradiction) == (labels.pop(), None)
    elif "notumor" not in labels:
        assert result.label in labels | {"tumor"}


@given(answers(least=2))
def test_a_contradiction_is_never_a_certainty(series: list[SeriesAnswer]) -> None:
    result = fuse(series, MODEL, RULE)
    said = {item.label == "notumor" for item in series}
    if len(said) < 2:
        return
    assert result.contradiction is not None
    lesions = [min(max(item.lesion_probability or 0, 0.02), 0.98) for item in series]
    assert min(lesions) < (result.lesion_probability or 0) < max(lesions)
    if result.label is None:
        assert result.reason == SERIES_DISAGREE
        assert RULE.no_lesion_to < (result.lesion_probability or 0) < RULE.lesion_from
    assert any(item.contradicts for item in result.contributions)


@given(answers(least=2))
def test_a_series_sent_twice_counts_once(series: list[SeriesAnswer]) -> None:
    copies = [replace(item, series=f"{item.series}.9", number=50 + (item.number or 0)) for item in series]
    twice = pooled_lesion_probability([*series, *copies], RULE)
    assert math.isclose(twice, pooled_lesion_probability(series, RULE), rel_tol=1e-9)


@pytest.mark.parametrize(
    ("series", "label", "reason"),
    [
        ([answer(1, "glioma", 0.98), answer(2, "notumor", 0.05, "T2")], "glioma", None),  # T1 weighs twice as much
        ([answer(1, "glioma", 0.7), answer(2, "notumor", 0.1, "FLAIR")], None, SERIES_DISAGREE),
        ([answer(1, "tumor", 0.8), answer(2, "glioma", 0.8, "T1C")], "glioma", None),
        ([answer(1, "tumor", 0.8), answer(2, "tumor", 0.8, "T1C")], "tumor", None),
        (
            [answer(1, "glioma", 0.9), answer(2, "meningioma", 0.9, "FLAIR", (0.1, 0.8, 0.1))],
            "tumor",
            None,
        ),
        ([answer(1, None, 0.3), unassessed(2)], None, NO_SERIES),
        ([unassessed(1), unassessed(2)], None, "not-a-brain"),
        ([], None, NO_SERIES),
    ],
)
def test_what_studies_are_answered(series: list[SeriesAnswer], label: str | None, reason: str | None) -> None:
    rule = StudyRule(weights={"T1": 2.0, "T2": 0.5}, lesion_from=0.85)
    result = fuse(series, MODEL, rule)
    assert (result.label, result.reason) == (label, reason)
    assert result.status is (ResultStatus.CLASSIFIED if label else ResultStatus.NOT_ASSESSED)


def test_series_that_contradict_each_other_are_named() -> None:
    series = [answer(3, "glioma", 0.8), answer(5, "notumor", 0.1, "FLAIR"), answer(7, "tumor", 0.6, "T2")]
    result = fuse([*series, unassessed(9)], MODEL, RULE)
    expected = "series 3 (T1, axial): Glioma; series 5 (FLAIR, axial): No tumour; series 7 (T2, axial): Tumour, kind"
    assert (result.contradiction or "").startswith(expected)
    assert (result.detail or "").startswith(f"The series disagree. {expected}")
    assert {item.answer.number: item.contradicts for item in result.contributions} == {
        3: True,
        5: True,
        7: True,
        9: False,
    }


def test_the_clearest_series_for_the_answer_decides() -> None:
    lesion = [answer(1, "tumor", 0.9), answer(2, "glioma", 0.8, "T1C"), answer(3, "glioma", 0.7, "T2")]
    assert fuse(lesion, MODEL, RULE).deciding == "1.2.2", "the clearest of those that name the kind"
    none = [answer(1, "notumor", 0.3), answer(2, "notumor", 0.1, "T1C")]
    assert fuse(none, MODEL, RULE).deciding == "1.2.2"


def test_hundreds_of_series_are_named_in_a_short_sentence() -> None:
    series = [
        answer(number, "glioma" if number % 2 else "notumor", 0.7 if number % 2 else 0.2) for number in range(400)
    ]
    result = fuse(series, MODEL, StudyRule())
    assert len(result.detail or "") < 1024
    assert "188 more" in (result.detail or "")


def test_a_model_without_an_undetermined_kind_leaves_contradicting_kinds_open() -> None:
    model = replace(MODEL, undetermined=None)
    series = [answer(1, "glioma", 0.9), answer(2, "meningioma", 0.9, "T2", (0.1, 0.8, 0.1))]
    assert fuse(series, model, StudyRule()).reason == SERIES_DISAGREE


def test_series_results_are_taken_as_they_are() -> None:
    basis = AnswerBasis("T1C", "header", "coronal", False, 20, 18, 0.7)
    result = SeriesResult(
        ResultStatus.CLASSIFIED, "tumor", 0.7, {"glioma": 0.7, "notumor": 0.3}, None, None, (), basis=basis
    )
    taken = series_answer("1.2.3", 5, result, MODEL)
    assert (taken.sequence, taken.plane, taken.label, taken.lesion_probability) == ("T1C", "coronal", "tumor", 0.7)
    format_one = series_answer("1.2.3", None, replace(result, basis=None, label="glioma"), MODEL)
    assert (format_one.sequence, format_one.lesion_probability) == (None, 0.7)
    uncertain = replace(result, status=ResultStatus.NOT_ASSESSED, reason="too-uncertain")
    assert series_answer("1.2.3", 5, uncertain, MODEL).label is None


def test_faulty_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        fuse([unassessed(1), unassessed(1)], MODEL, RULE)
    with pytest.raises(ValueError, match="without a probability"):
        fuse([replace(answer(1, "glioma", 0.9), lesion_probability=None)], MODEL, RULE)


def test_the_rule_is_told_in_a_line() -> None:
    assert "weights T1C 2, T2 0.5" in RULE.in_words
    assert "weights equal" in StudyRule().in_words
