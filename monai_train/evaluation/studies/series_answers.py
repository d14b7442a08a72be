"""The answers of a bundle of format 2 for the series of a patient, of the engine's outputs for their slices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from monai_train.data.manifest import ManifestRow
from monai_train.evaluation.metrics import BoolArray
from worker.inference.bundle import Bundle
from worker.inference.series_rule import Declared, Judgement, judge
from worker.pixels.arrays import FloatArray
from worker.results import SeriesAnswer

_T1_WITH_AGENT = {"T1": False, "T1C": True}


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the network said of `rows`: `logits` [n, K + S + R], and which slices are in distribution, [n]."""

    rows: Sequence[ManifestRow]
    logits: FloatArray
    in_distribution: BoolArray


def judge_series(bundle: Bundle, outputs: Outputs, chosen: Iterable[int]) -> dict[tuple[str, str], Judgement]:
    """The worker's judgement of each series among the chosen slices, by series and sequence.

    The sequence of a slice is that of the manifest, as if its header said so; slices of different series or sequences
    are judged apart.
    """
    rows = outputs.rows
    series: dict[tuple[str, str], list[int]] = {}
    for index in sorted(chosen, key=lambda i: rows[i].slice_number or 0):
        series.setdefault((rows[index].series, rows[index].sequence), []).append(index)
    return {
        key: judge(
            outputs.logits[own],
            outputs.in_distribution[own],
            None,
            rows[own[0]].plane or None,
            declared_as(key[1]),
            bundle.decision,
        )
        for key, own in series.items()
    }


def declared_as(sequence: str) -> Declared:
    """What the headers of a series of that sequence would say."""
    if sequence in _T1_WITH_AGENT:
        return Declared("T1", _T1_WITH_AGENT[sequence])
    return Declared(sequence or None)


def study_of(bundle: Bundle, outputs: Outputs, chosen: Iterable[int]) -> list[SeriesAnswer]:
    """The series among the chosen slices as the answer for their study takes them; `sequence` is that of the manifest.

    Raises StartError for a bundle of format 1.
    """
    answers = []
    for number, (key, judged) in enumerate(sorted(judge_series(bundle, outputs, chosen).items()), 1):
        decision, refusal = judged.decision, judged.refusal
        probabilities = decision.probabilities.tolist() if decision else []
        answers.append(
            SeriesAnswer(
                series=" ".join(key),
                number=number,
                sequence=key[1] or None,
                plane=None,
                label=decision.label if decision and not refusal else None,
                reason=refusal.reason if refusal else None,
                lesion_probability=decision.lesion_probability if decision else None,
                probabilities=dict(zip(bundle.decision.layout.classes, probabilities, strict=False)),
            )
        )
    return answers
