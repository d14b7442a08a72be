"""T1, T2, PD or FLAIR by echo, repetition and inversion time, where no name says so.

Thresholds: Westbrook and Talbot, MRI in Practice, 5th edition, chapter 2 and its tables of parameters (spin echo: T1
with a TR of 300 to 700 ms and a TE of 10 to 30 ms, T2 with a TR above 2000 ms and a TE above 70 ms, PD with that TR and
a TE of 10 to 30 ms; FLAIR with a TI of 1700 to 2500 ms; gradient echo: T1 with a large flip angle, T2* with a small
flip angle and a TE of 15 to 25 ms), widened for 3 T, turbo factors and single shots. Between them nothing is said.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.dicom.image_types import image_types
from worker.dicom.series_attributes import Attributes, first_number
from worker.dicom.series_terms import Sequence, Technique, meanings


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds and degrees; None where the header has none. `is_prepared`: an inversion before a gradient echo."""

    echo: float | None
    repetition: float | None
    inversion: float | None
    flip_angle: float | None
    is_prepared: bool
    is_3d: bool

    def __str__(self) -> str:
        shown = {"TE": self.echo, "TR": self.repetition, "TI": self.inversion}
        texts = [f"{name} {value:g} ms" for name, value in shown.items() if value]
        return ", ".join(texts + ([f"flip angle {self.flip_angle:g}°"] if self.flip_angle else []))


def weighting(technique: Technique | None, timing: Timing) -> Sequence | None:
    """The weighting that the times alone decide; None where they do not."""
    if timing.echo is None or timing.repetition is None:
        return None
    if technique == Technique.SPIN_ECHO:
        return _of_a_spin_echo(timing.echo, timing.repetition, timing.inversion)
    if technique == Technique.GRADIENT_ECHO:
        return _of_a_gradient_echo(timing.echo, timing.repetition, timing)
    return None


def _of_a_spin_echo(echo: float, repetition: float, inversion: float | None) -> Sequence | None:
    if inversion:
        if inversion >= 1500 and repetition >= 4000 and echo >= 60:
            return Sequence.FLAIR
        if 300 <= inversion < 1500 and echo <= 45:
            return Sequence.T1
        return None  # a short inversion time (STIR) suppresses fat under any weighting
    if repetition <= 1000 and echo <= 35:
        return Sequence.T1
    if repetition >= 1500 and echo <= 45:
        return Sequence.PD
    if repetition >= 1000 and echo >= 70:
        return Sequence.T2
    return None


def _of_a_gradient_echo(echo: float, repetition: float, timing: Timing) -> Sequence | None:
    inversion, flip_angle = timing.inversion, timing.flip_angle
    if inversion:
        return Sequence.T1 if 400 <= inversion <= 1500 and echo <= 10 else None
    if timing.is_prepared and timing.is_3d and echo <= 10:
        return Sequence.T1
    if flip_angle is None:
        return None
    if echo >= 15:
        return Sequence.T2_STAR if flip_angle <= 45 else None
    if not timing.is_3d:
        return Sequence.T1 if flip_angle >= 50 and 60 <= repetition <= 700 and echo <= 12 else None
    # A balanced gradient echo has a large angle at a short repetition time, time of flight a moderate angle at a long.
    spoiled = repetition <= 15 and 8 <= flip_angle < 30
    return Sequence.T1 if echo <= 7 and (spoiled or (15 < repetition <= 60 and flip_angle >= 28)) else None


def find_technique(kind: Attributes) -> Technique | None:
    """How an image was read out; None where nothing tells."""
    scanning = set(kind.get("ScanningSequence", ()))
    named = {
        term.meaning
        for keyword in ("SequenceName", "PulseSequenceName", "PhilipsTechnique", "GEPulseSequence")
        for term in meanings(list(kind.get(keyword, ())))
    }
    declared = "EP" in scanning or "YES" in kind.get("EchoPlanarPulseSequence", ()) or "EPI" in image_types(kind)
    if declared or Technique.ECHO_PLANAR in named or _is_silent_epi(kind, scanning):
        return Technique.ECHO_PLANAR
    described = {term.meaning for term in meanings(list(kind.get("SeriesDescription", ())))}
    pulse = set(kind.get("EchoPulseSequence", ()))
    if Technique.ECHO_PLANAR in described and not (pulse or "NO" in kind.get("EchoPlanarPulseSequence", ())):
        return Technique.ECHO_PLANAR
    if "SE" in scanning or "SPIN" in pulse:
        return Technique.SPIN_ECHO
    if "GR" in scanning or "GRADIENT" in pulse:
        return Technique.GRADIENT_ECHO
    if "IR" in scanning and Technique.GRADIENT_ECHO not in named:
        return Technique.SPIN_ECHO
    return next((technique for technique in Technique if technique in named or technique in described), None)


def _is_silent_epi(kind: Attributes, scanning: set[str]) -> bool:
    """Philips names echo-planar imaging GR: a long train of late gradient echoes, or its private EPI factor."""
    if (first_number(kind, "PhilipsEPIFactor") or 0) > 1:
        return True
    train, echo, repetition = (
        first_number(kind, key) or 0 for key in ("EchoTrainLength", "EchoTime", "RepetitionTime")
    )
    prepared = {"MP", "IR"} & {*kind.get("SequenceVariant", ()), *scanning}
    return scanning == {"GR"} and not prepared and train >= 16 and echo >= 15 and repetition >= 500


def find_timing(kind: Attributes) -> Timing:
    """The times of an image."""
    variants = {*kind.get("SequenceVariant", ()), *kind.get("ScanningSequence", ())}
    return Timing(
        echo=first_number(kind, "EchoTime", "EffectiveEchoTime"),
        repetition=first_number(kind, "RepetitionTime"),
        inversion=first_number(kind, "InversionTime", "InversionTimes"),
        flip_angle=first_number(kind, "FlipAngle"),
        is_prepared="IR" in variants or "YES" in kind.get("InversionRecovery", ()),
        is_3d="3D" in kind.get("MRAcquisitionType", ()),
    )


def weighting_by_times(kind: Attributes) -> Sequence | None:
    """The weighting of an image by its times; None where they do not decide."""
    return weighting(find_technique(kind), find_timing(kind))
