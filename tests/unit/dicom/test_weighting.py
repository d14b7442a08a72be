from __future__ import annotations

import pytest

from worker.dicom.series_terms import Sequence, Technique
from worker.dicom.weighting import Timing, find_technique, find_timing, weighting, weighting_by_times

SE, GR = Technique.SPIN_ECHO, Technique.GRADIENT_ECHO


@pytest.mark.parametrize(
    ("technique", "echo", "repetition", "inversion", "flip", "is_3d", "expected"),
    [
        (SE, 12, 500, None, 90, False, Sequence.T1),
        (SE, 100, 4000, None, 90, False, Sequence.T2),
        (SE, 90, 1200, None, 90, False, Sequence.T2),  # a single shot
        (SE, 20, 2500, None, 90, False, Sequence.PD),
        (SE, 55, 2500, None, 90, False, None),
        (SE, 120, 9000, 2500, 90, False, Sequence.FLAIR),
        (SE, 24, 2500, 860, 90, False, Sequence.T1),
        (SE, 60, 5000, 150, 90, False, None),  # STIR
        (GR, 3, 8, 450, 12, True, Sequence.T1),
        (GR, 3.5, 8, None, 12, True, Sequence.T1),
        (GR, 3.5, 22, None, 18, True, None),  # as a time of flight has it
        (GR, 2, 4.5, None, 60, True, None),  # balanced
        (GR, 2.5, 300, None, 80, False, Sequence.T1),
        (GR, 20, 600, None, 20, False, Sequence.T2_STAR),
        (GR, 20, 600, None, None, False, None),
        (None, 20, 600, None, 20, False, None),
        (SE, None, 600, None, 20, False, None),
    ],
)
def test_the_times_decide_or_say_nothing(
    technique: Technique | None,
    echo: float | None,
    repetition: float,
    inversion: float | None,
    flip: float | None,
    is_3d: bool,
    expected: Sequence | None,
) -> None:
    assert weighting(technique, Timing(echo, repetition, inversion, flip, False, is_3d)) == expected


def test_an_enhanced_image_has_its_times_in_other_attributes() -> None:
    kind = {"EchoPulseSequence": ["SPIN"], "EffectiveEchoTime": ["95.0"], "RepetitionTime": ["4500"]}
    assert find_technique(kind) == SE
    assert str(find_timing(kind)) == "TE 95 ms, TR 4500 ms"
    assert weighting_by_times(kind) == Sequence.T2
