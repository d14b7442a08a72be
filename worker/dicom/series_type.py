"""What a series is by its headers: sequence, contrast agent, plane, acquisition and body part, with the evidence.

Pure, over the attributes that the receiver stores of each instance (`dicom.series_attributes`); never pixels. What the
header declares comes first, then names by the table of terms, then times. Where a declaration and a name, or a name and
the times, contradict each other, the answer is unknown and both are in the evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import asdict, dataclass
from typing import Any

from worker.dicom.body_parts import NEIGHBOURS, shows_brain
from worker.dicom.image_types import BY_IMAGE_TYPE, UNKNOWN, derived_into, find_plane, image_types
from worker.dicom.series_attributes import TYPE_KEY, Attributes, number
from worker.dicom.series_terms import Contrast, Sequence, Technique, meanings
from worker.dicom.weighting import find_technique, find_timing, weighting_by_times
from worker.wording import counted

LOCALIZER_SLICES = 90  # a series of several planes with more slices is no scout
_MAXIMUM_EVIDENCE, _MAXIMUM_KINDS = 24, 256


@dataclass(frozen=True, slots=True)
class SeriesType:
    """The type of a series. `derived`: map, phase, projection, colour or derived; empty for an original image.

    `body_part` is a term of PS3.16 Annex L; `contradicted_parts` those of which the evidence names several.
    """

    sequence: Sequence = Sequence.UNKNOWN
    contrast_agent: Contrast = Contrast.UNKNOWN
    plane: str = UNKNOWN
    acquisition: str = UNKNOWN
    body_part: str = UNKNOWN
    derived: str = ""
    evidence: tuple[str, ...] = ()
    contradicted_parts: tuple[str, ...] = ()

    @property
    def is_echo_planar(self) -> bool:
        return Technique.ECHO_PLANAR in self.acquisition

    def __str__(self) -> str:
        """A line for a person: sequence, contrast agent, plane, acquisition, body part."""
        agent = {Contrast.WITH: "with contrast agent", Contrast.WITHOUT: "without contrast agent"}
        parts = (self.plane, self.acquisition, self.body_part, self.derived)
        known = [part for part in parts if part not in ("", UNKNOWN)]
        return ", ".join([f"{self.sequence}", *filter(None, [agent.get(self.contrast_agent)]), *known])

    @property
    def in_words(self) -> str | None:
        """As `str`, for report and picture; None where nothing is known."""
        known = str(self).removeprefix(f"{Sequence.UNKNOWN}").removeprefix(", ")
        return f"sequence unknown, {known}" if known and self.sequence is Sequence.UNKNOWN else known or None

    def as_json(self) -> dict[str, Any]:
        """As it is stored with the series."""
        return {name: list(value) if isinstance(value, tuple) else str(value) for name, value in asdict(self).items()}

    def value_of(self, name: str) -> str:
        """The value of a field that routing rules test."""
        return str(getattr(self, name))


_BY_CONTRAST = {  # AcquisitionContrast (PS3.3 C.8.13.3.1.1, Table C.8-85)
    "DIFFUSION": Sequence.DWI, "FLOW_ENCODED": Sequence.ANGIOGRAPHY, "FLUID_ATTENUATED": Sequence.FLAIR,
    "PERFUSION": Sequence.PERFUSION, "PROTON_DENSITY": Sequence.PD, "STIR": Sequence.OTHER, "TAGGING": Sequence.OTHER,
    "T1": Sequence.T1, "T2": Sequence.T2, "T2_STAR": Sequence.T2_STAR, "TOF": Sequence.ANGIOGRAPHY,
    "SPECTROSCOPY": Sequence.OTHER,
}  # fmt: skip
_WEIGHTINGS = (Sequence.T1, Sequence.T2, Sequence.FLAIR, Sequence.PD)
# Two sources that agree, one more exactly: what both together mean.
_AGREE: dict[frozenset[Sequence], Sequence] = {
    frozenset(pair): meaning
    for meaning, pairs in {
        Sequence.ADC: [(Sequence.ADC, Sequence.DWI)],
        Sequence.FLAIR: [(Sequence.FLAIR, Sequence.T2)],
        Sequence.T2_STAR: [(Sequence.T2_STAR, weight) for weight in (Sequence.T2, Sequence.T1, Sequence.PD)],
        Sequence.ANGIOGRAPHY: [(Sequence.ANGIOGRAPHY, weight) for weight in (*_WEIGHTINGS, Sequence.T2_STAR)],
        Sequence.FUNCTIONAL: [(Sequence.FUNCTIONAL, weight) for weight in (*_WEIGHTINGS, Sequence.T2_STAR)],
        Sequence.DWI: [(Sequence.DWI, weight) for weight in (Sequence.T2, Sequence.T2_STAR)],
        Sequence.PERFUSION: [(Sequence.PERFUSION, weight) for weight in (*_WEIGHTINGS, Sequence.T2_STAR)]
        + [(Sequence.PERFUSION, Sequence.FUNCTIONAL)],
        Sequence.OTHER: [(Sequence.OTHER, weight) for weight in (*_WEIGHTINGS, Sequence.T2_STAR)],
    }.items()
    for pair in pairs
} | {frozenset((Sequence.LOCALIZER, other)): Sequence.LOCALIZER for other in Sequence if other != Sequence.LOCALIZER}


class _Evidence:
    """What was found, in order and without repetition."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}

    def add(self, line: str) -> None:
        if len(self._lines) < _MAXIMUM_EVIDENCE:
            self._lines[line[:160]] = None

    def lines(self) -> tuple[str, ...]:
        return tuple(self._lines)


def read_series_type(images: Many[Mapping[str, Any]]) -> SeriesType:
    """The type of a series, of the attributes that are stored of its instances."""
    evidence = _Evidence()
    kinds = _kinds(images, evidence)
    sequences = [_sequence(kind, evidence) for kind in kinds]
    sequence = _common(sequences, evidence)
    plane, is_mixed = find_plane(images)
    slices = sum(int(image.get("frames", 1)) for image in images)
    if is_mixed and slices <= LOCALIZER_SLICES:
        evidence.add(f"orientation: {counted(slices, 'slice')} in planes that are not parallel")
        sequence = Sequence.LOCALIZER
    body_part, contradicted = _body_part(kinds, evidence)
    return SeriesType(
        sequence=sequence,
        contrast_agent=_contrast(kinds, evidence),
        plane="mixed" if is_mixed else plane,
        acquisition=_acquisition(kinds),
        body_part=body_part,
        derived=next(filter(None, map(derived_into, kinds)), ""),
        evidence=evidence.lines(),
        contradicted_parts=contradicted,
    )


# --- the images of a series ------------------------------------------------------------------------------------


def _kinds(images: Many[Mapping[str, Any]], evidence: _Evidence) -> list[Attributes]:
    """The attributes of the images, once for all that have the same."""
    kinds: dict[tuple[Any, ...], Attributes] = {}
    for image in images:
        stored = image.get(TYPE_KEY)
        if stored is None:
            evidence.add("stored by an earlier version: only image type, scanning sequence and body part are known")
            stored = [_of_before(image)]
        for kind in stored:
            plain = {keyword: texts for keyword, texts in kind.items() if keyword != "ImageOrientationPatient"}
            kinds.setdefault(tuple((keyword, tuple(plain[keyword])) for keyword in sorted(plain)), plain)
        if len(kinds) > _MAXIMUM_KINDS:
            evidence.add(f"more than {_MAXIMUM_KINDS} kinds of images")
            break
    return list(kinds.values())


def _of_before(image: Mapping[str, Any]) -> dict[str, list[str]]:
    known = {
        "ImageType": image.get("image_type", []),
        "ScanningSequence": image.get("scanning_sequence", []),
        "BodyPartExamined": [image["body_part"]] if image.get("body_part") else [],
    }
    return {keyword: list(values) for keyword, values in known.items() if values}


def _common(sequences: Many[Sequence], evidence: _Evidence) -> Sequence:
    """What a series is whose images are these."""
    found = dict.fromkeys(sequences)
    if len(found) <= 1:
        return next(iter(found), Sequence.UNKNOWN)
    # A series that holds any of these has that type: a diffusion series' images without diffusion weighting are T2.
    for decisive in (Sequence.LOCALIZER, Sequence.DWI, Sequence.ADC, Sequence.PERFUSION, Sequence.FUNCTIONAL):
        if decisive in found:
            return decisive
    evidence.add(f"images differ: {', '.join(sorted(found))}")
    known = [sequence for sequence in found if sequence != Sequence.UNKNOWN]
    return known[0] if len(known) == 1 else Sequence.UNKNOWN


# --- the sequence ----------------------------------------------------------------------------------------------


def _sequence(kind: Attributes, evidence: _Evidence) -> Sequence:
    declared = _declared(kind, evidence)
    named = _named(kind, evidence)
    by_times = weighting_by_times(kind)
    if declared is None and named is None:
        if by_times is not None:
            evidence.add(f"{find_timing(kind)}: {by_times}")
        return by_times or _by_readout(kind)
    if declared is not None and named is not None:
        agreed = _agreed(declared, named)
        if agreed is None and {declared, named} == {Sequence.T1, Sequence.FLAIR}:
            agreed = by_times  # a "T1 FLAIR" has the fluid attenuated, too
        if agreed is None:
            evidence.add(f"contradiction: the header says {declared}, the name {named}")
        return agreed or Sequence.UNKNOWN
    if named is None:
        return declared or Sequence.UNKNOWN
    return _checked(named, by_times, kind, evidence)


def _agreed(first: Sequence, second: Sequence) -> Sequence | None:
    return first if first == second else _AGREE.get(frozenset((first, second)))


def _checked(named: Sequence, by_times: Sequence | None, kind: Attributes, evidence: _Evidence) -> Sequence:
    """What a name says, unless the times exclude it."""
    if by_times is None or named not in _WEIGHTINGS:
        return named
    if by_times == Sequence.FLAIR and named == Sequence.T2:
        evidence.add(f"{find_timing(kind)}: {by_times}")
        return Sequence.FLAIR
    agreed = named if named == Sequence.FLAIR and by_times == Sequence.T2 else _agreed(named, by_times)
    if agreed is None or (named == Sequence.T1 and by_times == Sequence.T2_STAR):
        evidence.add(f"contradiction: the name says {named}, {find_timing(kind)} says {by_times}")
        return Sequence.UNKNOWN
    return agreed


def _declared(kind: Attributes, evidence: _Evidence) -> Sequence | None:
    """What the header declares, apart from free text and times."""
    types = image_types(kind)
    for sequence, _, values in BY_IMAGE_TYPE:
        if shown := sorted(types & values):
            evidence.add(f"image type {', '.join(shown)}: {sequence}")
            return sequence
    if (b_value := _b_value(kind)) > 0:
        evidence.add(f"b-value {b_value:g}: {Sequence.DWI}")
        return Sequence.DWI
    for value in kind.get("AcquisitionContrast", ()):
        if value in _BY_CONTRAST:
            evidence.add(f"acquisition contrast {value}: {_BY_CONTRAST[value]}")
            return _BY_CONTRAST[value]
    for keyword, yes in (("TimeOfFlightContrast", "YES"), ("PhaseContrast", "YES"), ("AngioFlag", "Y")):
        if yes in kind.get(keyword, ()):
            evidence.add(f"{keyword} {yes}: {Sequence.ANGIOGRAPHY}")
            return Sequence.ANGIOGRAPHY
    return None


def _named(kind: Attributes, evidence: _Evidence) -> Sequence | None:
    """What the names say: the series' description first, then its protocol and its pulse sequence."""
    names = (
        "SeriesDescription",
        "ProtocolName",
        "SequenceName",
        "PulseSequenceName",
        "PhilipsTechnique",
        "GEPulseSequence",
    )
    for keyword in names:
        terms = [term for term in meanings(list(kind.get(keyword, ()))) if isinstance(term.meaning, Sequence)]
        if not terms:
            continue
        sequence = _of_terms({Sequence(term.meaning) for term in terms}, weighting_by_times(kind))
        evidence.add(f"{keyword} '{', '.join(term.name for term in terms)}': {sequence or UNKNOWN}")
        if sequence is not None:
            return sequence
    return None


def _of_terms(found: set[Sequence], by_times: Sequence | None) -> Sequence | None:
    """What the terms of a name mean together."""
    for telling in (
        Sequence.LOCALIZER, Sequence.ADC, Sequence.DWI, Sequence.PERFUSION, Sequence.FUNCTIONAL, Sequence.ANGIOGRAPHY,
        Sequence.OTHER, Sequence.T2_STAR,
    ):  # fmt: skip
        if telling in found:
            return telling
    if found == {Sequence.T1, Sequence.FLAIR}:
        return Sequence.T1
    if found == {Sequence.T2, Sequence.FLAIR}:
        return Sequence.FLAIR
    if len(found) == 1:
        return next(iter(found))
    return by_times if by_times in found else None  # "PD T2" of a double echo


def _by_readout(kind: Attributes) -> Sequence:
    """An echo-planar image without a name belongs to a functional series, if it is a gradient echo."""
    if "MOSAIC" in image_types(kind):
        return Sequence.FUNCTIONAL
    if find_technique(kind) == Technique.ECHO_PLANAR:
        return Sequence.OTHER if "SE" in kind.get("ScanningSequence", ()) else Sequence.FUNCTIONAL
    return Sequence.UNKNOWN


def _b_value(kind: Attributes) -> float:
    values = [
        number(text) or 0.0
        for key in ("DiffusionBValue", "SiemensBValue", "PhilipsBValue")
        for text in kind.get(key, ())
    ]
    values += [(number(text) or 0.0) % 100_000 for text in kind.get("GEBValue", ())[:1]]  # GE adds 1e9
    return max(values, default=0.0)


# --- technique, times, plane -----------------------------------------------------------------------------------


def _acquisition(kinds: Many[Attributes]) -> str:
    """As "3D gradient echo"; echo planar where any image is."""
    techniques = dict.fromkeys(filter(None, map(find_technique, kinds)))
    technique = Technique.ECHO_PLANAR if Technique.ECHO_PLANAR in techniques else next(iter(techniques), "")
    dimensions = next(
        (value for kind in kinds for value in kind.get("MRAcquisitionType", ()) if value in ("2D", "3D")), ""
    )
    return " ".join(filter(None, (dimensions, technique))) or UNKNOWN


# --- contrast agent and body part ------------------------------------------------------------------------------


def _contrast(kinds: Many[Attributes], evidence: _Evidence) -> Contrast:
    found: dict[Contrast, None] = {}
    for kind in kinds:
        administered = set(kind.get("ContrastBolusAgentAdministered", ()))
        if "YES" in administered:
            _say(found, Contrast.WITH, "contrast bolus usage", evidence)
        elif "NO" in administered:
            _say(found, Contrast.WITHOUT, "contrast bolus usage", evidence)
        elif kind.get("ContrastBolusAgent") or kind.get("ContrastBolusAgentSequence"):
            _say(found, Contrast.WITH, "contrast bolus agent", evidence)
        for keyword in ("SeriesDescription", "ProtocolName"):
            terms = [term for term in meanings(list(kind.get(keyword, ()))) if isinstance(term.meaning, Contrast)]
            for term in terms:
                _say(found, Contrast(term.meaning), f"{keyword} '{term.name}'", evidence)
            if terms:
                break
    if len(found) > 1:
        evidence.add("contradiction: contrast agent given and not given")
    return next(iter(found)) if len(found) == 1 else Contrast.UNKNOWN


def _say(found: dict[Contrast, None], contrast: Contrast, source: str, evidence: _Evidence) -> None:
    found[contrast] = None
    evidence.add(f"{source}: {contrast} contrast agent")


def _body_part(kinds: Many[Attributes], evidence: _Evidence) -> tuple[str, tuple[str, ...]]:
    """(the body part, those that contradict each other): codes and Body Part Examined, the series' names, the study's.

    A coil is named only where nothing else tells: the head of a child is examined in the coil for a knee.
    """
    coded = _parts(kinds, "AnatomicRegionSequence", "BodyPartExamined", evidence=evidence)
    named = _parts(kinds, "SeriesDescription.part", "ProtocolName.part", evidence=evidence)
    study = _parts(
        kinds, "StudyDescription.part", "PerformedProcedureStepDescription.part", "RequestedProcedureDescription.part",
        evidence=evidence,
    )  # fmt: skip
    first = coded or named or study or _parts(kinds, "ReceiveCoilName", evidence=evidence)
    if not first:
        return UNKNOWN, ()
    others = {part for part in named if not shows_brain(named)}
    if not named and not shows_brain(study):
        others |= {part for part in study if part not in NEIGHBOURS}
    if others and shows_brain(first):
        evidence.add(f"contradiction: body part {first[0]} and {', '.join(sorted(others))}")
        return UNKNOWN, tuple(sorted({*first, *others}))
    brain = [part for part in first if shows_brain([part])]
    foreign = [part for part in first if not shows_brain([part])]
    # Of several codes every code counts; of the words in a text it is enough that one is the head.
    return (foreign[0] if coded and foreign else (brain or foreign)[0]), ()


def _parts(kinds: Many[Attributes], *keywords: str, evidence: _Evidence) -> list[str]:
    found: dict[str, None] = {}
    for kind in kinds:
        for keyword in keywords:
            for part in kind.get(keyword, ()):
                if part:
                    evidence.add(f"{keyword.removesuffix('.part')}: body part {part}")
                    found[part] = None
    return list(found)
