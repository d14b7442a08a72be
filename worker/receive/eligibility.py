"""The rules of [eligibility]: which settled series are queued, by what their headers say; pure."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Any

from worker.config.sections import EligibilitySection
from worker.dicom.body_parts import names_head, normal_term, shows_brain
from worker.dicom.image_types import UNKNOWN
from worker.dicom.series_attributes import TYPE_KEY
from worker.dicom.series_terms import Sequence
from worker.dicom.series_type import SeriesType
from worker.storage.acceptance import PRODUCED_KEY
from worker.wording import counted

_SHOWN = 6  # of a rule's words


@dataclass(frozen=True, slots=True)
class SeriesRefusal:
    """Why no model classifies a series: a stable word and a sentence."""

    reason: str
    detail: str


# What a scanner writes of an acquisition, into its maps too (PS3.3 C.8.3.1, C.8.13.1).
_SCAN = frozenset(
    ("ScanningSequence", "MRAcquisitionType", "EchoTime", "RepetitionTime", "PixelPresentation", "AcquisitionContrast")
)


def check_eligibility(
    attributes: Many[Mapping[str, Any]], rules: EligibilitySection, series_type: SeriesType
) -> SeriesRefusal | None:
    """Why a series is not eligible, None where it is.

    `attributes` are those of the instances, as `storage.acceptance.read_instance` makes them, `series_type` what
    `dicom.series_type.read_series_type` makes of them.
    """
    if any(instance.get(PRODUCED_KEY) for instance in attributes):
        return SeriesRefusal("produced", "a worker of this product made the series; it is not classified")
    modalities = {str(instance["modality"]).upper() for instance in attributes}
    if refused := modalities - _upper(rules.modalities):
        shown = ", ".join(sorted(modality or "none" for modality in refused))
        return SeriesRefusal("modality", f"modality {shown}; accepted: {', '.join(rules.modalities)}")
    return (
        _check_images(attributes, rules, series_type)
        or _check_sequence(attributes, rules, series_type)
        or _check_body_part(attributes, rules, series_type)
        or _check_slices(attributes, rules)
    )


def _check_images(
    attributes: Many[Mapping[str, Any]], rules: EligibilitySection, series_type: SeriesType
) -> SeriesRefusal | None:
    # A converted picture (a Secondary Capture of a teaching file, say) is in colour by its format and names no scan.
    converted = all("SECONDARY" in instance["image_type"] for instance in attributes) and not any(
        _SCAN & kind.keys() for kind in _kinds(attributes)
    )
    if series_type.derived == "colour" and not converted:
        return SeriesRefusal("colour", "images in colour are maps, not a structural series")
    values = {value for instance in attributes for value in instance["image_type"]}
    for keyword in ("FrameType", "ComplexImageComponent", "VolumeBasedCalculationTechnique"):
        values |= {value for kind in _kinds(attributes) for value in kind.get(keyword, ())}
    words = _plain(rules.refuse_image_types)
    if refused := {value for value in values if _plain([value]) & words}:
        return SeriesRefusal("image-type", f"image type {', '.join(sorted(refused))} is not a structural series")
    return None


def _check_sequence(
    attributes: Many[Mapping[str, Any]], rules: EligibilitySection, series_type: SeriesType
) -> SeriesRefusal | None:
    sequence = str(series_type.sequence)
    is_refused = sequence.upper() in _upper(rules.refuse_sequences)
    why = "; ".join(line for line in series_type.evidence if "body part" not in line)
    if is_refused and series_type.sequence == Sequence.LOCALIZER:
        return SeriesRefusal("localizer", f"the series is a localizer ({why})")
    scanning = {value for instance in attributes for value in instance["scanning_sequence"]}
    if series_type.is_echo_planar:
        scanning.add("EP")
    if refused := scanning & _upper(rules.refuse_scanning_sequences):
        shown = ", ".join(sorted(refused))
        return SeriesRefusal("scanning-sequence", f"scanning sequence {shown} is not supported by the model")
    if is_refused:
        return SeriesRefusal("sequence", f"sequence {sequence} is not supported by the model ({why})")
    if series_type.plane == "mixed":
        return SeriesRefusal("mixed-planes", "the images are not parallel, so they are no stack of slices")
    return None


def _check_body_part(
    attributes: Many[Mapping[str, Any]], rules: EligibilitySection, series_type: SeriesType
) -> SeriesRefusal | None:
    if not rules.body_parts:
        return None
    accepted = {normal_term(part) for part in rules.body_parts}
    declared = {str(instance["body_part"]) for instance in attributes}
    # Words and codes for the head are coarser than the terms of a rule: any of them will do.
    brain = shows_brain(accepted)
    parts = {part for part in declared if normal_term(part) and normal_term(part) not in accepted}
    parts = {part for part in parts if not (brain and names_head(part))}
    inferred = {series_type.body_part, *series_type.contradicted_parts} - {UNKNOWN}
    parts |= {part for part in inferred if normal_term(part) not in accepted and not (brain and shows_brain([part]))}
    if not parts:
        return None
    shown = ", ".join(sorted(parts))
    by = "" if parts <= declared else f" ({'; '.join(_about_body(series_type))})"
    return SeriesRefusal("body-part", f"body part {shown}{by}; accepted: {_begin(rules.body_parts)}")


def _begin(words: Many[str]) -> str:
    return ", ".join(words[:_SHOWN]) + (" …" if len(words) > _SHOWN else "")


def _about_body(series_type: SeriesType) -> list[str]:
    return [line for line in series_type.evidence if "body part" in line][:4]


def _check_slices(attributes: Many[Mapping[str, Any]], rules: EligibilitySection) -> SeriesRefusal | None:
    slices = sum(int(instance["frames"]) for instance in attributes)
    if slices < rules.minimum_slices:
        return SeriesRefusal("too-few-slices", f"{slices} of at least {counted(rules.minimum_slices, 'slice')}")
    if slices > rules.maximum_slices:
        return SeriesRefusal("too-many-slices", f"{slices} slices; at most {rules.maximum_slices} are accepted")
    return None


def _kinds(attributes: Many[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [kind for instance in attributes for kind in instance.get(TYPE_KEY) or ()]


def _upper(words: Many[str]) -> set[str]:
    return {word.upper() for word in words}


def _plain(words: Many[str]) -> set[str]:
    """In capitals, with spaces: vendors write PHASE MAP and PHASE_MAP."""
    return {word.upper().replace("_", " ") for word in words}
