"""Fit the rules of a bundle of format 2 (docs/bundle.md, "decision"): P(lesion), its thresholds, and reliable kinds.

A case is a slice or a whole series of the validation part; both are weighted so that lesions and no lesions count
alike, whatever their numbers, and so that a patient's slices count as much as the patient's series.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.stats import binomtest

from worker.pixels.arrays import FloatArray

_LEAST_CASES = 8  # of lesions and of no lesions, for a sequence's own rule
_WANTED = 0.95  # sensitivity and specificity of what is answered
_UNDECIDED = 0.10  # at most this share of either group of cases lies between the thresholds
_MINIMUM_KINDS = (0.6, 0.7, 0.8, 0.9)  # of which the least is taken that lets most kinds be named
_PRECISION = 0.85  # of a kind on a sequence, to be named there; its lower limit must exceed _LEAST_PRECISION
_LEAST_PRECISION = 0.6
_LEAST_PATIENTS = 3


@dataclass(frozen=True, slots=True)
class LesionCase:
    """A slice or series of known truth: `evidence` of its best window, in natural log odds, of `windows` windows."""

    sequence: str
    evidence: float
    windows: int
    lesion: bool
    patient: str


@dataclass(frozen=True, slots=True)
class KindCase:
    """A slice with a lesion of known kind: its logits of the lesion classes, and the index of its kind."""

    sequence: str
    logits: tuple[float, ...]
    kind: int
    patient: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """P(lesion) = sigmoid(slope x evidence + offset - per_slices x ln(windows))."""

    slope: float
    offset: float
    per_slices: float

    def probability(self, cases: Sequence[LesionCase]) -> FloatArray:
        """P(lesion) of each case, [n]."""
        return np.asarray(_sigmoid(_design(cases) @ np.array([self.slope, self.offset, -self.per_slices])))


def fit_calibration(cases: Sequence[LesionCase], per_slices: float | None = None) -> Calibration:
    """Logistic regression with slope and per_slices from 0, or a given per_slices.

    Slope and offset have a normal prior about 1 and 0, of standard deviation 1: the network's own evidence counts as it
    is until enough patients say otherwise. Raises ValueError unless both truths occur.
    """
    truth = np.array([case.lesion for case in cases])
    if truth.all() or not truth.any():
        raise ValueError("a calibration needs cases with and without a lesion")
    design, weights = _design(cases), _weights(cases)
    patients = len({case.patient for case in cases})

    def loss(values: npt.NDArray[np.float64]) -> float:
        scores = design @ np.array([values[0], values[1], -values[2]])
        surprise = np.where(truth, np.logaddexp(0, -scores), np.logaddexp(0, scores))
        return float((weights * surprise).sum() + ((values[0] - 1) ** 2 + values[1] ** 2) / (2 * patients))

    allowed = (0, 3) if per_slices is None else (per_slices, per_slices)
    start = np.array([1.0, 0.0, 0.1 if per_slices is None else per_slices])
    found = minimize(loss, start, bounds=((0.05, 5), (-20, 20), allowed), method="L-BFGS-B").x
    return Calibration(*(round(float(value), 4) for value in found))


def fit_per_slices(cases: Sequence[LesionCase]) -> dict[str, float | None]:
    """`per_slices` by sequence: None where it is the sequence's own to fit, the common value elsewhere.

    A sequence's own needs whole series with a lesion and without: where one of them is known from single slices only,
    the number of slices would tell the truth. The common value is fitted on all sequences that have both; 1 if none
    has: so many windows have so many chances.
    """
    series: dict[str, set[tuple[bool, str]]] = {case.sequence: set() for case in cases}
    for case in cases:
        if case.windows > 1:
            series[case.sequence].add((case.lesion, case.patient))
    has_both = {
        name: min(sum(lesion is truth for lesion, _ in own) for truth in (True, False)) >= _LEAST_PATIENTS
        for name, own in series.items()
    }
    pooled = [case for case in cases if has_both[case.sequence]]
    common = fit_calibration(pooled).per_slices if pooled else 1.0
    return {name: None if both else common for name, both in has_both.items()}


def fit_thresholds(probability: FloatArray, lesion: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """(no_lesion_to, lesion_from) for P(lesion) of cases [n] with their truth.

    They start where sensitivity and specificity are nearest to each other, in the middle (of the log odds) where a
    range of thresholds is alike, and move apart, the threshold that leaves more errors first, until 95 % of the answers
    of both groups are right or a tenth of either group is left undecided.
    """
    levels = np.unique(np.concatenate([[0.02, 0.5, 0.98], probability.round(3)]).clip(0.001, 0.999))
    equal = [min((probability[lesion] >= t).mean(), (probability[~lesion] < t).mean()) for t in levels]
    low = high = _middle_of_best(levels, np.array(equal))
    while True:
        missed, false = (probability[lesion] < low).mean(), (probability[~lesion] >= high).mean()
        undecided = [((group >= low) & (group < high)).mean() for group in (probability[lesion], probability[~lesion])]
        if (missed <= 1 - _WANTED and false <= 1 - _WANTED) or max(undecided) >= _UNDECIDED:
            return round(low, 3), round(high, 3)
        if missed >= false and (levels < low).any():
            low = float(levels[levels < low].max())
        elif (levels > high).any():
            high = float(levels[levels > high].min())
        else:
            return round(low, 3), round(high, 3)


def _middle_of_best(levels: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]) -> float:
    """The middle, in log odds, of the first range of thresholds that have the best score.

    The score of a threshold is that of the next of the levels [n], ascending, with their scores [n].
    """
    first = int(np.argmax(scores))
    others = np.flatnonzero(scores[first:] < scores[first])
    last = first + int(others[0]) - 1 if len(others) else len(levels) - 1
    ends = levels[[max(first - 1, 0), last]]
    return float(_sigmoid(np.log(ends / (1 - ends)).mean()))


def fit_kind_temperature(cases: Sequence[KindCase]) -> float:
    """The temperature by which the kinds' logits are divided (Guo et al. 2017); 1 without cases."""
    if not cases:
        return 1.0
    logits, kinds = np.array([case.logits for case in cases]), np.array([case.kind for case in cases])

    def loss(temperature: float) -> float:
        scaled = logits / temperature
        return float((np.logaddexp.reduce(scaled, axis=1) - scaled[np.arange(len(kinds)), kinds]).mean())

    candidates = np.geomspace(0.3, 5, 200)
    return round(float(candidates[int(np.argmin([loss(value) for value in candidates]))]), 3)


def reliable_kinds(
    cases: Sequence[KindCase], names: Sequence[str], temperature: float, minimum: float = _MINIMUM_KINDS[0]
) -> list[str]:
    """The kinds that are right in 85 % of the slices that get their name, with this probability, patients alike.

    A kind is reliable only where patients with other kinds were there to be mistaken for it.
    """
    if not cases:
        return []
    logits = np.array([case.logits for case in cases]) / temperature
    probability = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None])
    best, kinds = probability.argmax(axis=1), np.array([case.kind for case in cases])
    named = probability.max(axis=1) >= minimum
    of_kind = [{case.patient for case in cases if case.kind == index} for index in range(len(names))]
    confusable = [len(set().union(*of_kind[:k], *of_kind[k + 1 :])) >= _LEAST_PATIENTS for k in range(len(names))]
    return [
        name
        for index, name in enumerate(names)
        if confusable[index] and _is_reliable(cases, named & (best == index), kinds == index)
    ]


def _is_reliable(cases: Sequence[KindCase], named: npt.NDArray[np.bool_], right: npt.NDArray[np.bool_]) -> bool:
    """Whether naming the kind is right often enough: a patient weighs as the share of its slices so named."""
    counts = Counter(case.patient for case in cases)
    weight = 1 / np.array([counts[case.patient] for case in cases])
    patients = {case.patient for case, is_named in zip(cases, named, strict=True) if is_named}
    if len(patients) < _LEAST_PATIENTS:
        return False
    share = float((weight * (named & right)).sum() / (weight * named).sum())
    lower = binomtest(round(share * len(patients)), len(patients)).proportion_ci(method="wilson").low
    return share >= _PRECISION and float(lower) >= _LEAST_PRECISION


def fit_rules(
    lesions: Sequence[LesionCase], kinds: Sequence[KindCase], sequences: Sequence[str], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The "decision" of worker.json: a rule for each sequence; what was not seen often enough is not supported.

    `names` are those of the lesion classes, in the order of `KindCase.logits`.
    """
    temperature = fit_kind_temperature(kinds)
    per_slices = fit_per_slices(lesions)
    return {
        sequence: _rule(sequence, lesions, kinds, names, temperature, per_slices.get(sequence))
        for sequence in sequences
    }


def _rule(
    sequence: str,
    lesions: Sequence[LesionCase],
    kinds: Sequence[KindCase],
    names: Sequence[str],
    temperature: float,
    per_slices: float | None,
) -> dict[str, Any]:
    own = [case for case in lesions if case.sequence == sequence]
    truth = np.array([case.lesion for case in own], bool)
    supported = min(truth.sum(), (~truth).sum()) >= _LEAST_CASES
    calibration = fit_calibration(own, per_slices) if supported else Calibration(1.0, 0.0, 0.0)
    low, high = fit_thresholds(calibration.probability(own), truth) if supported else (0.5, 0.5)
    of_sequence = [case for case in kinds if case.sequence == sequence and supported]
    named = {minimum: reliable_kinds(of_sequence, names, temperature, minimum) for minimum in _MINIMUM_KINDS}
    minimum = max(_MINIMUM_KINDS, key=lambda value: (len(named[value]), -value))
    return {
        "supported": bool(supported),
        "planes": ["axial"] if sequence != "T1C" else ["axial", "coronal", "sagittal"],
        "slope": calibration.slope,
        "offset": calibration.offset,
        "per_slices": calibration.per_slices,
        "lesion_from": high,
        "no_lesion_to": low,
        "kind_temperature": temperature,
        "minimum_kind": minimum,
        "reliable_kinds": named[minimum],
    }


def _design(cases: Sequence[LesionCase]) -> npt.NDArray[np.float64]:
    return np.array([[case.evidence, 1.0, np.log(case.windows)] for case in cases], np.float64).reshape(-1, 3)


def _weights(cases: Sequence[LesionCase]) -> npt.NDArray[np.float64]:
    """Sum 1: both truths weigh 1/2, their patients alike, and within a patient slices together as much as series."""
    return balanced_weights([(case.lesion, case.patient, case.windows > 1) for case in cases])


def balanced_weights(groups: Sequence[tuple[Hashable, ...]]) -> npt.NDArray[np.float64]:
    """The weight of each case by its group, [n]: cases of a group weigh as 1, and groups of either truth sum to 1/2.

    A group begins with the truth.
    """
    counts = Counter(groups)
    of_truth = Counter(group[0] for group in counts)
    return np.array([0.5 / (counts[group] * of_truth[group[0]]) for group in groups])


def _sigmoid(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -700, 700))))
