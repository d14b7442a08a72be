"""The answer for a study from the answers for its series: a pure function that the worker and `monai_train` share.

The log odds of a lesion are averaged over the sequences, each weighted as the bundle says (a logarithmic opinion pool:
Genest and Zidek 1986, doi:10.1214/ss/1177013825); series of the same sequence share its weight, so that a series sent
twice counts once. Series that agree give their common answer. Where they contradict each other, the average decides if
it is clear enough; otherwise the study is not assessed, `series-disagree`. docs/bundle.md, "The study result".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from worker.results import (
    Contribution,
    ModelClass,
    ModelIdentity,
    ResultStatus,
    SeriesAnswer,
    SeriesResult,
    StudyResult,
)

SERIES_DISAGREE, NO_SERIES = "series-disagree", "no-series-assessed"
_NAMED = 12  # series in a sentence; a study may have hundreds


@dataclass(frozen=True)
class StudyRule:
    """The bundle's "study" object (docs/bundle.md), or what holds where it has none.

    `weights`: of sequences, 1 where not given. `most_certain`: beside another series, a series counts with at most this
    probability of a lesion, and at least 1 minus it. Of series that contradict each other the average decides from
    `lesion_from` on and up to `no_lesion_to`. `minimum_kind`: of series that name different kinds, the likeliest is
    named from this mean probability on.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    most_certain: float = 0.98
    lesion_from: float = 0.9
    no_lesion_to: float = 0.1
    minimum_kind: float = 0.6

    @property
    def in_words(self) -> str:
        """A line for 111002 DCM Algorithm Parameters."""
        weights = ", ".join(f"{name} {weight:g}" for name, weight in self.weights.items()) or "equal"
        return (
            f"study: mean log odds, weights {weights}; contradiction: lesion from {self.lesion_from:g}, "
            f"none to {self.no_lesion_to:g}; kind from {self.minimum_kind:g}"
        )


EQUAL_WEIGHTS = StudyRule()


def series_answer(series: str, number: int | None, result: SeriesResult, model: ModelIdentity) -> SeriesAnswer:
    """A series result as its study's answer sees it."""
    basis, probabilities = result.basis, result.probabilities
    lesion = basis.lesion_probability if basis else lesion_of(probabilities, model)
    classified = result.status is ResultStatus.CLASSIFIED
    return SeriesAnswer(
        series=series,
        number=number,
        sequence=basis.sequence if basis else None,
        plane=basis.plane if basis else None,
        label=result.label if classified else None,
        reason=result.reason,
        lesion_probability=lesion,
        probabilities=dict(probabilities),
    )


def lesion_of(probabilities: Mapping[str, float], model: ModelIdentity) -> float | None:
    """P(lesion) by the probabilities of the classes; None without any."""
    lesions = [probabilities[item.name] for item in model.classes if item.is_lesion and item.name in probabilities]
    return min(1.0, math.fsum(lesions)) if lesions else None


def fuse(answers: Sequence[SeriesAnswer], model: ModelIdentity, rule: StudyRule) -> StudyResult:
    """The answer for a study of its series, in any order; each series occurs once.

    A study with a single assessed series has that series' answer. Series that are not assessed change nothing and are
    listed. Raises ValueError where a series occurs twice or has a label without a probability.
    """
    ordered = sorted(answers, key=lambda item: (item.number is None, item.number or 0, item.series))
    if len({item.series for item in ordered}) < len(ordered):
        raise ValueError("a series occurs twice in its study")
    assessed = [item for item in ordered if item.label is not None]
    if any(item.lesion_probability is None for item in assessed):
        raise ValueError("a series has a label without a probability of a lesion")
    if not assessed:
        return not_assessed(ordered)
    shares = _shares(assessed, rule)
    if len(assessed) == 1:
        return _single(ordered, assessed[0], model)
    return _pooled(ordered, assessed, shares, model, rule)


def pooled_lesion_probability(answers: Sequence[SeriesAnswer], rule: StudyRule) -> float:
    """P(lesion) of assessed series together, at least one: their weighted mean log odds as a probability."""
    shares = _shares(answers, rule)
    limit = rule.most_certain
    odds = [_log_odds(min(max(item.lesion_probability or 0.0, 1 - limit), limit)) for item in answers]
    mean = math.fsum(share * value for share, value in zip(shares.values(), odds, strict=True))
    return 1 / (1 + math.exp(-mean))


def _shares(answers: Sequence[SeriesAnswer], rule: StudyRule) -> dict[str, float]:
    """The share of each series, sum 1: a sequence's weight is divided among its series."""
    counts = Counter(item.sequence for item in answers)
    weights = {item.series: rule.weights.get(item.sequence or "", 1.0) / counts[item.sequence] for item in answers}
    total = math.fsum(weights.values())
    return {series: weight / total for series, weight in weights.items()}


def _log_odds(probability: float) -> float:
    return math.log(probability) - math.log1p(-probability)


def not_assessed(ordered: Sequence[SeriesAnswer]) -> StudyResult:
    """Of no series that is assessed: the reason that they share, or `no-series-assessed` with the reason of each."""
    reasons = {item.reason for item in ordered if item.reason}
    return StudyResult(
        status=ResultStatus.NOT_ASSESSED,
        label=None,
        probability=None,
        probabilities={},
        lesion_probability=None,
        reason=reasons.pop() if len(reasons) == 1 else NO_SERIES,
        detail=_listed([f"{series_name(item)}: {item.reason or 'no answer'}" for item in ordered]) or "No series.",
        contradiction=None,
        contributions=tuple(Contribution(item, 0.0, False) for item in ordered),
        deciding=None,
    )


def _single(ordered: Sequence[SeriesAnswer], only: SeriesAnswer, model: ModelIdentity) -> StudyResult:
    label = model.class_named(only.label or "")
    return StudyResult(
        status=ResultStatus.CLASSIFIED,
        label=only.label,
        probability=_probability(label, model, only.probabilities, only.lesion_probability or 0.0),
        probabilities=dict(only.probabilities),
        lesion_probability=only.lesion_probability,
        reason=None,
        detail=None,
        contradiction=None,
        contributions=tuple(Contribution(item, float(item is only), False) for item in ordered),
        deciding=only.series,
    )


def _pooled(
    ordered: Sequence[SeriesAnswer],
    assessed: Sequence[SeriesAnswer],
    shares: Mapping[str, float],
    model: ModelIdentity,
    rule: StudyRule,
) -> StudyResult:
    """The answer of two or more assessed series."""
    lesion = pooled_lesion_probability(assessed, rule)
    with_lesion = [item for item in assessed if _says_lesion(item, model)]
    without = [item for item in assessed if not _says_lesion(item, model)]
    finds_lesion: bool | None = bool(with_lesion)
    if with_lesion and without:
        finds_lesion = True if lesion >= rule.lesion_from else False if lesion <= rule.no_lesion_to else None
    kinds = _given([item.name for item in model.classes if item.is_lesion], with_lesion or assessed, shares)
    kinds |= _given([item.name for item in model.classes if not item.is_lesion], without or assessed, shares)
    label = _label(finds_lesion, with_lesion, without, kinds, model, rule)
    probabilities = {item.name: (lesion if item.is_lesion else 1 - lesion) * kinds[item.name] for item in model.classes}
    contradiction = _contradiction(assessed, model)
    against = {item.series for item in assessed if contradiction and _is_against(item, label, model)}
    return StudyResult(
        status=ResultStatus.CLASSIFIED if label else ResultStatus.NOT_ASSESSED,
        label=label.name if label else None,
        probability=_probability(label, model, probabilities, lesion) if label else None,
        probabilities=probabilities,
        lesion_probability=lesion,
        reason=None if label else SERIES_DISAGREE,
        detail=None if label else f"The series disagree. {contradiction}",
        contradiction=contradiction,
        contributions=tuple(
            Contribution(item, shares.get(item.series, 0.0), item.series in against) for item in ordered
        ),
        deciding=_deciding(assessed, label, shares, model).series,
    )


def _says_lesion(item: SeriesAnswer, model: ModelIdentity) -> bool:
    return model.class_named(item.label or "").is_lesion


def _given(names: Sequence[str], answers: Sequence[SeriesAnswer], shares: Mapping[str, float]) -> dict[str, float]:
    """Probabilities of classes given that it is one of `names`, sum 1: the mean of the series that name any, or all."""
    voters = [item for item in answers if item.label in names] or answers
    parts: dict[str, list[float]] = {name: [] for name in names}
    for item in voters:
        total = math.fsum(item.probabilities.get(name, 0.0) for name in names)
        for name in names:
            own = item.probabilities.get(name, 0.0) / total if total > 0 else 1 / len(names)
            parts[name].append(shares[item.series] * own)
    sums = {name: math.fsum(values) for name, values in parts.items()}
    whole = math.fsum(sums.values())
    return {name: value / whole for name, value in sums.items()}


def _label(
    finds_lesion: bool | None,
    with_lesion: Sequence[SeriesAnswer],
    without: Sequence[SeriesAnswer],
    kinds: Mapping[str, float],
    model: ModelIdentity,
    rule: StudyRule,
) -> ModelClass | None:
    """The label of the study; None where its series disagree."""
    if finds_lesion is None:
        return None
    named = {item.label or "" for item in (with_lesion if finds_lesion else without) if item.label in kinds}
    if not named:
        return model.undetermined
    best = max(named, key=lambda name: (kinds[name], name))
    if len(named) == 1 or kinds[best] >= rule.minimum_kind:
        return model.class_named(best)
    return model.undetermined if finds_lesion else None


def _probability(
    label: ModelClass, model: ModelIdentity, probabilities: Mapping[str, float], lesion_probability: float
) -> float:
    return probabilities[label.name] if label in model.classes else lesion_probability


def _is_against(item: SeriesAnswer, label: ModelClass | None, model: ModelIdentity) -> bool:
    """Whether a series says otherwise than the study; an undetermined kind contradicts no kind."""
    if label is None:
        return True
    own = model.class_named(item.label or "")
    if own.is_lesion != label.is_lesion:
        return True
    return own != label and own in model.classes and label in model.classes


def _contradiction(assessed: Sequence[SeriesAnswer], model: ModelIdentity) -> str | None:
    """A sentence with the series that contradict each other, by what they say; None where none do."""
    groups: dict[str, list[SeriesAnswer]] = {}
    for item in assessed:
        groups.setdefault(item.label or "", []).append(item)
    lesions = {model.class_named(name).is_lesion for name in groups}
    kinds = [name for name in groups if model.class_named(name) in model.classes and model.class_named(name).is_lesion]
    if len(lesions) == 1 and len(kinds) < 2:
        return None
    said = [
        f"{_listed([series_name(item) for item in groups[name]])}: {model.class_named(name).title}"
        for name in sorted(groups)
    ]
    return f"{'; '.join(said)}."


def _deciding(
    assessed: Sequence[SeriesAnswer], label: ModelClass | None, shares: Mapping[str, float], model: ModelIdentity
) -> SeriesAnswer:
    """The series that speaks most clearly for the answer; where the series disagree, most clearly for a lesion."""
    without = label is not None and not label.is_lesion

    def clarity(item: SeriesAnswer) -> tuple[bool, bool, float, float, str]:
        lesion = item.lesion_probability or 0.0
        names_it = label is not None and item.label == label.name
        clear = 1 - lesion if without else lesion
        return (_says_lesion(item, model) != without, names_it, clear, shares[item.series], item.series)

    return max(assessed, key=clarity)


def series_name(item: SeriesAnswer) -> str:
    """A series in a sentence: its number, and what it was judged as; no text of its sender."""
    kind = ", ".join(part for part in (item.sequence, item.plane) if part)
    number = f"series {item.number}" if item.number is not None else "a series without a number"
    return f"{number} ({kind})" if kind else number


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:_NAMED])
    more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join(shown + more)
