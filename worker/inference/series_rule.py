"""The rule of bundle format 2: the logits of a series' slices → which sequence, lesion or none, which kind.

Pure functions over small arrays, with numpy alone: the worker answers with them and `monai_train` fits with them, so
what is exported is what is computed (docs/bundle.md, "The series result, format 2"). The logits of a slice are
[K + S + R]: classes, sequences, regions. All computation is in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.errors import NotAssessable

Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

T1, T1C, OTHER, BRAIN = "T1", "T1C", "other", "brain"
_POSITION_TOLERANCE_MM = 0.01  # as pixels.geometry compares positions


@dataclass(frozen=True)
class Layout:
    """The network's outputs for a slice: `classes` (of which `no_lesion` is the class without a finding), then
    `sequences`, then `regions`."""

    classes: tuple[str, ...]
    no_lesion: str
    sequences: tuple[str, ...]
    regions: tuple[str, ...]

    @property
    def outputs(self) -> int:
        return len(self.classes) + len(self.sequences) + len(self.regions)

    @property
    def no_lesion_index(self) -> int:
        return self.classes.index(self.no_lesion)

    @property
    def is_lesion(self) -> BoolArray:
        """[K], False for the class without a finding."""
        return np.array([name != self.no_lesion for name in self.classes])


@dataclass(frozen=True)
class SeriesLimits:
    """The bundle's "series" object: docs/bundle.md."""

    neighbourhood_mm: float
    minimum_brain: float
    minimum_brain_slices: float
    minimum_in_distribution: float
    minimum_sequence: float
    contradiction: float


@dataclass(frozen=True)
class SequenceRule:
    """How a series of a sequence is answered: an entry of the bundle's "decision" object (docs/bundle.md)."""

    supported: bool
    planes: tuple[str, ...]
    slope: float
    offset: float
    per_slices: float
    lesion_from: float
    no_lesion_to: float
    kind_temperature: float
    minimum_kind: float
    reliable_kinds: tuple[str, ...]


@dataclass(frozen=True)
class SeriesDecision:
    """The rule of a bundle: a rule for each sequence, and the label of a lesion whose kind is not reliable."""

    layout: Layout
    limits: SeriesLimits
    rules: Mapping[str, SequenceRule]
    undetermined: str


@dataclass(frozen=True)
class SeriesEvidence:
    """What the slices of a series say, in stack order.

    `evidence` [n] log odds of a lesion; `brain` [n] P(brain); `has_say` [n]; `window_means` [n], -inf where a slice has
    no say; `best_window` [n], the slices of the window with the largest mean, all False where none has a say.
    `in_distribution_share` is among the slices with brain; `sequences` [S] are the mean probabilities over the slices
    with a say (NaN where there is none).
    """

    evidence: Array
    brain: Array
    has_say: BoolArray
    brain_share: float
    in_distribution_share: float
    sequences: Array
    window_means: Array
    best_window: BoolArray

    @property
    def slices_with_say(self) -> int:
        """The number of windows, too."""
        return int(self.has_say.sum())

    @property
    def strongest(self) -> float:
        """The largest window mean; -inf where no slice has a say."""
        return float(self.window_means.max(initial=-math.inf))


@dataclass(frozen=True)
class Declared:
    """What the headers say of a series: None or "" where they do not tell.

    `sequence` is a value of `dicom.series_terms.Sequence`. `with_agent`: a contrast agent was given, or none was;
    `agent_is_mixed`: some images name a contrast agent and others do not.
    """

    sequence: str | None = None
    with_agent: bool | None = None
    agent_is_mixed: bool = False
    body_part: str = ""


@dataclass(frozen=True)
class ChosenSequence:
    """The sequence by which a series is judged, and whether the "header" or the "pixels" named it."""

    name: str
    source: str


@dataclass(frozen=True)
class Decision:
    """The answer for a series: `label` is a class, the name for an undetermined kind, or None for too uncertain.

    `probabilities` [K] sum to 1; `probability` is that of the label.
    """

    lesion_probability: float
    probabilities: Array
    label: str | None
    probability: float


@dataclass(frozen=True)
class Judgement:
    """How far a series was judged; what is None was not reached. Without `refusal`, the decision has a label."""

    evidence: SeriesEvidence
    chosen: ChosenSequence | None
    rule: SequenceRule | None
    decision: Decision | None
    refusal: NotAssessable | None


def softmax(values: npt.NDArray[Any]) -> Array:
    """Probabilities along the last axis."""
    scaled = np.asarray(values, np.float64)
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def split_logits(logits: npt.NDArray[Any], layout: Layout) -> tuple[Array, Array, Array]:
    """[n, K + S + R] → class logits [n, K], sequence logits [n, S], region logits [n, R]."""
    first = len(layout.classes)
    second = first + len(layout.sequences)
    wide = np.asarray(logits, np.float64)
    return wide[:, :first], wide[:, first:second], wide[:, second:]


def lesion_evidence(class_logits: Array, layout: Layout) -> Array:
    """Log odds of a lesion for each slice, natural log: logsumexp(lesion logits) - logit(no lesion); [n, K] → [n]."""
    lesions = class_logits[:, layout.is_lesion]
    largest = lesions.max(axis=1)
    total = largest + np.log(np.exp(lesions - largest[:, None]).sum(axis=1))
    return np.asarray(total - class_logits[:, layout.no_lesion_index])


def read_slices(
    logits: npt.NDArray[Any],
    in_distribution: BoolArray,
    positions_mm: npt.NDArray[Any] | None,
    layout: Layout,
    limits: SeriesLimits,
) -> SeriesEvidence:
    """The evidence of a series: `logits` [n, K + S + R], flags [n] and ascending positions [n] along the normal.

    `positions_mm` is None without geometry. A slice has a say where it shows brain, is in distribution and its logits
    are finite.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        class_logits, sequence_logits, region_logits = split_logits(logits, layout)
        evidence = lesion_evidence(class_logits, layout)
        brain = softmax(region_logits)[:, layout.regions.index(BRAIN)]
        shows_brain = np.asarray(brain >= limits.minimum_brain)
    has_say = shows_brain & in_distribution & np.isfinite(logits).all(axis=1)
    sequences = softmax(sequence_logits[has_say])
    means, starts, ends = _windows(evidence, has_say, positions_mm, limits.neighbourhood_mm)
    best = np.zeros(len(has_say), np.bool_)
    if has_say.any():
        middle = int(means.argmax())
        best[starts[middle] : ends[middle]] = True
    return SeriesEvidence(
        evidence=evidence,
        brain=brain,
        has_say=has_say,
        brain_share=float(shows_brain.mean()) if len(has_say) else 0.0,
        in_distribution_share=float(in_distribution[shows_brain].mean()) if shows_brain.any() else 0.0,
        sequences=sequences.mean(axis=0) if len(sequences) else np.full(len(layout.sequences), np.nan),
        window_means=means,
        best_window=best & has_say,
    )


def _windows(
    evidence: Array, has_say: BoolArray, positions_mm: npt.NDArray[Any] | None, neighbourhood_mm: float
) -> tuple[Array, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Of the window around each slice: mean evidence of its slices with a say, first slice, and end (exclusive).

    A window reaches half a neighbourhood to both sides, and to the next slices of the stack where these are no further
    away than a whole neighbourhood: so slices 7 mm apart confirm each other, too. Without positions it reaches to the
    next slices.
    """
    index = np.arange(len(evidence))
    before, after = np.maximum(index - 1, 0), np.minimum(index + 1, len(index) - 1)
    starts, ends = before, after + 1
    if positions_mm is not None:
        positions = np.asarray(positions_mm, np.float64)
        half, whole = neighbourhood_mm / 2 + _POSITION_TOLERANCE_MM, neighbourhood_mm + _POSITION_TOLERANCE_MM
        starts = np.searchsorted(positions, positions - half, "left")
        ends = np.searchsorted(positions, positions + half, "right")
        starts = np.where(positions - positions[before] <= whole, np.minimum(starts, before), starts)
        ends = np.where(positions[after] - positions <= whole, np.maximum(ends, after + 1), ends)
    totals = np.concatenate(([0.0], np.cumsum(np.where(has_say, evidence, 0.0))))
    counts = np.concatenate(([0], np.cumsum(has_say)))
    means = (totals[ends] - totals[starts]) / np.maximum(counts[ends] - counts[starts], 1)
    return np.where(has_say, means, -np.inf), starts, ends


def check_region(evidence: SeriesEvidence, limits: SeriesLimits, body_part: str = "") -> None:
    """Raise NotAssessable for a series that shows too little brain, or brain unlike that of training.

    Reasons: not-a-brain, out-of-distribution. `body_part` is what the header names.
    """
    slices = len(evidence.has_say)
    brains = round(evidence.brain_share * slices)
    if brains == 0 or evidence.brain_share < limits.minimum_brain_slices:
        named = f"; the header names the body part {body_part}" if body_part else ""
        raise NotAssessable("not-a-brain", f"{brains} of {slices} slices show a brain{named}.")
    if not evidence.has_say.any() or evidence.in_distribution_share < limits.minimum_in_distribution:
        similar = round(evidence.in_distribution_share * brains)
        raise NotAssessable(
            "out-of-distribution",
            f"{similar} of {brains} slices with brain resemble the brain MRI that the model was trained on.",
        )


def choose_sequence(declared: Declared, seen: Array, sequences: Sequence[str], limits: SeriesLimits) -> ChosenSequence:
    """The sequence of a series: what the headers declare, checked against what the pixels show.

    `seen` [S] are the mean probabilities by the pixels. Of T1 and T1C the contrast agent of the header decides; where
    it is not known, the pixels. Raises NotAssessable: sequence-not-supported, sequence-contradiction.
    """
    shown = dict(zip(sequences, seen.tolist(), strict=True))
    of_t1 = [name for name in (T1, T1C) if name in shown]
    weights = {name: share for name, share in shown.items() if name not in of_t1}
    if of_t1:
        weights[T1] = sum(shown[name] for name in of_t1)
    best = max(weights, key=weights.__getitem__)
    if declared.sequence is None and not weights[best] >= limits.minimum_sequence:
        raise NotAssessable("sequence-not-supported", "Neither the header nor the images tell which sequence it is.")
    weighting = declared.sequence or best
    name = _t1_or_t1c(declared, {name: shown[name] for name in of_t1}) if weighting == T1 else weighting
    if name not in shown:
        raise NotAssessable("sequence-not-supported", f"The model does not know the sequence {name}.")
    if declared.sequence is not None and best != weighting and weights[best] >= limits.contradiction:
        raise NotAssessable(
            "sequence-contradiction",
            f"The header says {name}, the images look like {_named(best)} (probability {weights[best]:.2f}).",
        )
    return ChosenSequence(name, "header" if declared.sequence is not None else "pixels")


def _t1_or_t1c(declared: Declared, shown: Mapping[str, float]) -> str:
    """By the contrast agent of the headers; by the pixels, where `shown` has both, if it is not known."""
    if declared.agent_is_mixed:
        raise NotAssessable(
            "sequence-contradiction", "Some images of the T1 series name a contrast agent, others name none."
        )
    if declared.with_agent is not None:
        return T1C if declared.with_agent else T1
    return max(shown, key=shown.__getitem__, default=T1)


def _named(sequence: str) -> str:
    return "another sequence" if sequence == OTHER else sequence


def check_supported(chosen: ChosenSequence, plane: str | None, rules: Mapping[str, SequenceRule]) -> SequenceRule:
    """The rule for that sequence. Raises NotAssessable sequence-not-supported for a sequence or plane without answers.

    A plane that is not known (images without geometry) is accepted.
    """
    rule = rules[chosen.name]
    if not rule.supported:
        by = "by the header" if chosen.source == "header" else "by the look of the images"
        raise NotAssessable(
            "sequence-not-supported", f"The model does not answer on this sequence: {chosen.name} ({by})."
        )
    if plane is not None and plane not in rule.planes:
        accepted = " or ".join(rule.planes) or "no plane"
        raise NotAssessable(
            "sequence-not-supported", f"The model answers on {chosen.name} in {accepted} slices; these are {plane}."
        )
    return rule


def lesion_probability(strongest: npt.ArrayLike, windows: npt.ArrayLike, rule: SequenceRule) -> Array:
    """P(lesion) of the largest of `windows` window means: sigmoid(slope s + offset - per_slices ln n), elementwise."""
    odds = rule.slope * np.asarray(strongest, np.float64) + rule.offset - rule.per_slices * np.log(windows)
    return np.asarray(0.5 * (1 + np.tanh(odds / 2)))


def kind_probabilities(class_logits: Array, layout: Layout, rule: SequenceRule) -> Array:
    """Probabilities of the kinds given a lesion, [n, K] → [n, K]: 0 for the class without a finding, sum 1."""
    kinds = np.zeros(class_logits.shape)
    kinds[:, layout.is_lesion] = softmax(class_logits[:, layout.is_lesion] / rule.kind_temperature)
    return kinds


def class_probabilities(lesion: npt.NDArray[Any], kinds: Array, layout: Layout) -> Array:
    """Probabilities of the classes of P(lesion) [n] and the kinds [n, K]: [n, K], sum 1."""
    probabilities = kinds * lesion[:, None]
    probabilities[:, layout.no_lesion_index] = 1 - lesion
    return np.asarray(probabilities)


def slice_probabilities(logits: npt.NDArray[Any], layout: Layout, rule: SequenceRule) -> Array:
    """Probabilities of the classes for each slice by itself: [n, K + S + R] → [n, K]."""
    class_logits = split_logits(logits, layout)[0]
    lesion = lesion_probability(lesion_evidence(class_logits, layout), 1, rule)
    return class_probabilities(lesion, kind_probabilities(class_logits, layout, rule), layout)


def decide(
    evidence: SeriesEvidence, logits: npt.NDArray[Any], layout: Layout, rule: SequenceRule, undetermined: str
) -> Decision:
    """Lesion or none, and the kind where it is reliable; some slice of `evidence`, that of `logits`, has a say."""
    lesion = float(lesion_probability(evidence.strongest, evidence.slices_with_say, rule))
    class_logits = split_logits(logits[evidence.best_window], layout)[0]
    kinds = kind_probabilities(class_logits, layout, rule).mean(axis=0)
    probabilities = class_probabilities(np.array([lesion]), kinds[None], layout)[0]
    label: str | None = None
    if lesion >= rule.lesion_from:
        best = int(kinds.argmax())
        kind = layout.classes[best]
        label = kind if kind in rule.reliable_kinds and kinds[best] >= rule.minimum_kind else undetermined
    elif lesion <= rule.no_lesion_to:
        label = layout.no_lesion
    probability = lesion if label not in layout.classes else float(probabilities[layout.classes.index(label)])
    return Decision(lesion, probabilities, label, probability)


def judge(
    logits: npt.NDArray[Any],
    in_distribution: BoolArray,
    positions_mm: npt.NDArray[Any] | None,
    plane: str | None,
    declared: Declared,
    by: SeriesDecision,
) -> Judgement:
    """The answer for a series of the outputs of its slices, as `read_slices` takes them, and of its headers."""
    evidence = read_slices(logits, in_distribution, positions_mm, by.layout, by.limits)
    chosen = rule = decision = refusal = None
    try:
        check_region(evidence, by.limits, declared.body_part)
        chosen = choose_sequence(declared, evidence.sequences, by.layout.sequences, by.limits)
        rule = check_supported(chosen, plane, by.rules)
        decision = decide(evidence, logits, by.layout, rule, by.undetermined)
        if decision.label is None:
            raise NotAssessable(
                "too-uncertain",
                f"The probability of a lesion is {decision.lesion_probability:.2f}; on {chosen.name} the model answers "
                f"up to {rule.no_lesion_to:.2f} and from {rule.lesion_from:.2f} on.",
            )
    except NotAssessable as fault:
        refusal = fault
    return Judgement(evidence, chosen, rule, decision, refusal)
