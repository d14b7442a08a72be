"""The answer of a bundle of format 2 for a series: headers and outputs → `series_rule` → the result with its maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worker.dicom import functional_groups, series_attributes
from worker.dicom.header import parse_header_of_file, read_meta
from worker.dicom.odd_values import ignore_value_warnings
from worker.dicom.series_terms import Contrast
from worker.dicom.series_terms import Sequence as Weighting
from worker.dicom.series_type import read_series_type
from worker.inference.aggregate import (
    in_distribution,
    normalised,
    relative_distance,
    slice_results,
    with_map,
)
from worker.inference.bundle import Bundle
from worker.inference.display import key_image
from worker.inference.engines import EngineOutputs
from worker.inference.illustrated import IllustratedResult
from worker.inference.preprocess import Volume
from worker.inference.series_rule import (
    Declared,
    Judgement,
    judge,
    kind_probabilities,
    slice_probabilities,
    softmax,
    split_logits,
)
from worker.pixels.arrays import FloatArray
from worker.results import AnswerBasis, ResultStatus

_META_BYTES = 1 << 16
_GROUPS = (functional_groups.SHARED, functional_groups.PER_FRAME)
_KEYWORDS: tuple[str | int, ...] = (*series_attributes.KEYWORDS, *series_attributes.PRIVATE_TAGS)


def read_declared(paths: Sequence[Path]) -> Declared:
    """What the headers of a series' files say of it. Raises OSError when a file cannot be opened."""
    return declared_of(map(_read_kinds, paths))


def declared_of(images: Iterable[series_attributes.Kinds]) -> Declared:
    """What the attributes of a series' images say of it."""
    kinds: dict[str, dict[str, Any]] = {}
    for image in images:
        for kind in image:
            plain = {keyword: texts for keyword, texts in kind.items() if keyword != "ImageOrientationPatient"}
            kinds.setdefault(repr(sorted(plain.items())), {series_attributes.TYPE_KEY: [plain]})
    different = list(kinds.values())
    series_type = read_series_type(different)
    agents = {read_series_type([image]).contrast_agent for image in different}
    return Declared(
        sequence=None if series_type.sequence == Weighting.UNKNOWN else str(series_type.sequence),
        with_agent={Contrast.WITH: True, Contrast.WITHOUT: False}.get(series_type.contrast_agent),
        agent_is_mixed=Contrast.WITH in agents and len(agents) > 1,
        body_part="" if series_type.body_part == "unknown" else series_type.body_part,
    )


def _read_kinds(path: Path) -> list[dict[str, list[str]]]:
    """The attributes of the file's images; nothing where its header cannot be read."""
    with path.open("rb") as file, ignore_value_warnings():
        try:
            syntax = str(read_meta(file.read(_META_BYTES)).get("TransferSyntaxUID", ""))
            return series_attributes.read_kinds(parse_header_of_file(file, syntax, _KEYWORDS, _GROUPS))
        except Exception as error:  # hostile bytes may raise anything in a parser: they tell nothing
            if isinstance(error, OSError) and error.errno is not None:
                raise
            return [{}]


def judge_volume(volume: Volume, logits: FloatArray, allowed: Any, bundle: Bundle, declared: Declared) -> Judgement:
    """Judge a series of the logits [n, K + S + R] of `volume.tensor` and its slices' in-distribution flags [n]."""
    positions = [frame.position_mm for frame in volume.frames]
    return judge(
        logits,
        allowed,
        None if None in positions else np.array(positions, np.float64),
        volume.plane,
        declared,
        bundle.decision,
    )


def answer(volume: Volume, outputs: EngineOutputs, bundle: Bundle, declared: Declared) -> IllustratedResult:
    """The result of the series; `outputs` are those of `volume.tensor`."""
    allowed = in_distribution(outputs.features, bundle)
    judged = judge_volume(volume, outputs.logits, allowed, bundle, declared)
    deciding = np.flatnonzero(judged.evidence.best_window) if judged.decision else np.array([], np.intp)
    slices = slice_results(
        volume, _of_slices(judged, outputs, bundle), allowed, deciding, relative_distance(outputs.features, bundle)
    )
    maps = _maps(judged, outputs, bundle, deciding)
    shown = len(slices) // 2
    if len(deciding):
        shown = int(deciding[judged.evidence.evidence[deciding].argmax()])
    decision, refusal = judged.decision, judged.refusal
    named = zip(bundle.identity.classes, decision.probabilities if decision else (), strict=False)
    return IllustratedResult(
        status=ResultStatus.NOT_ASSESSED if refusal else ResultStatus.CLASSIFIED,
        label=decision.label if decision else None,
        probability=decision.probability if decision and not refusal else None,
        probabilities={model_class.name: float(probability) for model_class, probability in named},
        reason=refusal.reason if refusal else None,
        detail=refusal.detail if refusal else None,
        slices=tuple(
            with_map(volume, index, item, maps[index]) if index in maps else item for index, item in enumerate(slices)
        ),
        basis=_basis(volume, judged),
        key_image=key_image(volume, shown, normalised(maps[shown]) if shown in maps else None),
    )


def _of_slices(judged: Judgement, outputs: EngineOutputs, bundle: Bundle) -> FloatArray:
    """The class probabilities of each slice by itself, [n, K]; uncalibrated where no rule applies."""
    layout = bundle.decision.layout
    with np.errstate(invalid="ignore", over="ignore"):  # a slice whose logits are not finite has no say
        if judged.rule is not None:
            return np.asarray(slice_probabilities(outputs.logits, layout, judged.rule), np.float32)
        return np.asarray(softmax(split_logits(outputs.logits, layout)[0]), np.float32)


def _maps(judged: Judgement, outputs: EngineOutputs, bundle: Bundle, deciding: Any) -> dict[int, FloatArray]:
    """The maps [h, w] of the deciding slices: of the class, of all lesions where the kind is not determined."""
    layout = bundle.decision.layout
    if judged.refusal is not None or judged.decision is None or judged.rule is None:
        return {}
    label = judged.decision.label
    if label == layout.no_lesion:
        return {}
    classes = len(layout.classes)
    weights = kind_probabilities(split_logits(outputs.logits[deciding], layout)[0], layout, judged.rule)
    if label in layout.classes:
        weights = np.tile(np.eye(classes)[layout.classes.index(label)], (len(deciding), 1))
    maps = np.einsum("nk,nkhw->nhw", weights, outputs.maps[deciding, :classes]).astype(np.float32)
    return dict(zip(deciding.tolist(), maps, strict=True))


def _basis(volume: Volume, judged: Judgement) -> AnswerBasis:
    return AnswerBasis(
        sequence=judged.chosen.name if judged.chosen else None,
        sequence_source=judged.chosen.source if judged.chosen else None,
        plane=volume.plane,
        reformatted=volume.is_reformatted,
        slices=len(volume.frames),
        slices_with_say=judged.evidence.slices_with_say,
        lesion_probability=judged.decision.lesion_probability if judged.decision else None,
    )
