"""The manifest's words for what headers say of a series."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_train.data.sources.dicom_series import sequence_of, series_columns
from tests.testbed.source_folder import dicom_series
from worker.dicom.series_terms import Contrast, Sequence
from worker.dicom.series_type import SeriesType


@pytest.mark.parametrize(
    ("sequence", "agent", "assumed", "word"),
    [
        (Sequence.T1, Contrast.WITH, False, "T1C"),
        (Sequence.T1, Contrast.WITHOUT, False, "T1"),
        (Sequence.T1, Contrast.UNKNOWN, False, ""),  # most scanners do not say that there was none
        (Sequence.T1, Contrast.UNKNOWN, True, "T1"),
        (Sequence.T1, Contrast.WITH, True, "T1C"),
        (Sequence.T2, Contrast.UNKNOWN, False, "T2"),
        (Sequence.FLAIR, Contrast.WITH, False, "FLAIR"),
        (Sequence.PD, Contrast.UNKNOWN, False, "other"),
        (Sequence.ADC, Contrast.UNKNOWN, False, "other"),
        (Sequence.UNKNOWN, Contrast.WITH, True, ""),
    ],
)
def test_sequence_is_a_word_of_the_manifest(sequence: Sequence, agent: Contrast, assumed: bool, word: str) -> None:
    assert sequence_of(SeriesType(sequence=sequence, contrast_agent=agent), assumed) == word


def test_files_are_read_and_what_is_no_dicom_says_nothing(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.dcm" for number in range(3)]
    for path, content in zip(paths, dicom_series("AX T2 TSE"), strict=False):
        path.write_bytes(content)
    paths[2].write_bytes(b"no DICOM")
    assert series_columns(paths) == {"sequence": "T2", "plane": "axial"}
    assert series_columns(paths[2:]) == {"sequence": "", "plane": ""}
