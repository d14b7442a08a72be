"""`worker routes test` says which rule applies, and why the others do not."""

from __future__ import annotations

import os
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import EnhancedMRImageStorage

from tests.testbed.command import Run
from tests.testbed.instances import encoded, mr_instance, write_series


def test_the_rule_that_applies_and_why_not_the_others(run: Run, config: Path, tmp_path: Path) -> None:
    files = write_series(tmp_path / "images", 3)
    config.write_text(
        '[[route]]\nname = "ge"\nmatch = [{attribute = "Modality", in = ["CT", "PT"]}]\nmodels = ["m"]\n'
        '[[route]]\nname = "family"\nmatch = [{attribute = "PatientName", regex = "nobody"}]\nrefuse = "no"\n'
        '[[route]]\nname = "mr"\nmatch = [{attribute = "Modality", equals = "mr"}]\nmodels = ["m"]\n'
        '[[route]]\nname = "rest"\nrefuse = "not ours"\n'
    )
    code, printed, _ = run("routes", "test", str(tmp_path / "images"))
    assert code == 0
    assert printed.splitlines() == [
        f"{files[0]} (images: 3): m",
        "  series type: T1, axial, spin echo, BRAIN",
        "  1 'ge': Modality in ['CT', 'PT'] does not hold for 3 of 3 images (here: MR)",
        "  2 'family': PatientName matches /nobody/ does not hold for 3 of 3 images",
        "  3 'mr': matches and applies",
        "  4 'rest': also matches, but 'mr' comes first",
    ]


def test_the_kinds_of_frames_of_a_multi_frame_file_are_counted(run: Run, config: Path, tmp_path: Path) -> None:
    groups = []
    for echo_time in (10.0, 10.0, 80.0):
        echo, group = Dataset(), Dataset()
        echo.EffectiveEchoTime = echo_time
        group.MREchoSequence = [echo]
        groups.append(group)
    ds = mr_instance(SOPClassUID=EnhancedMRImageStorage, NumberOfFrames=3, PerFrameFunctionalGroupsSequence=groups)
    (tmp_path / "two.dcm").write_bytes(encoded(ds))
    config.write_text(
        '[[route]]\nname = "short"\nmatch = [{attribute = "EffectiveEchoTime", range = [5, 20]}]\nmodels = ["m"]\n'
    )
    assert run("routes", "test", str(tmp_path / "two.dcm"))[1].splitlines()[2:] == [
        "  1 'short': EffectiveEchoTime in 5 … 20 does not hold for 1 of 2 kinds of frames (here: 10.0, 80.0)"
    ]


def test_a_series_that_no_rule_may_decide_says_so(run: Run, config: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "images", 2)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    code, printed, error = run("routes", "test", str(tmp_path / "images"))
    assert code == 1  # a file could not be read
    first, second, _, third = printed.splitlines()
    assert first == "the configuration has no [[route]]: the active models classify every eligible series"
    assert second.endswith("(images: 2): no rule matches; the active models")
    assert third == "  not eligible, so no rule applies: 2 of at least 3 slices"
    assert error == "not read: notes.txt: the file has no DICOM preamble\n"


def test_the_names_of_somebodys_files_move_no_cursor(run: Run, config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    Path(os.fsdecode(bytes(folder) + b"/\x1b[31m\xff.dcm")).write_bytes(encoded(mr_instance()))
    Path(os.fsdecode(bytes(folder) + b"/\x1b]52;c;x\x07\xfe.txt")).write_text("no image")
    config.write_text('[[route]]\nname = "r"\nmatch = [{attribute = "Modality", in = ["CT"]}]\nmodels = ["m"]\n')
    code, printed, error = run("routes", "test", str(folder))
    assert code == 1
    assert all(line.isprintable() for line in [*printed.splitlines(), *error.splitlines()])
    assert r"not read: \x1b]52;c;x\x07\udcfe.txt" in error
    assert r"\x1b[31m\udcff.dcm (images: 1)" in printed
