"""`python -m monai.bundle run` classifies a folder by the bundle alone, as the worker would."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.testbed.waiting import patience
from worker.inference.bundle import Bundle
from worker.inference.classify import classify
from worker.inference.engines import OpenVinoEngine
from worker.inference.run_bundle import run_bundle, series_below


def test_monai_runs_the_bundle(bundle: Bundle, bundle_folder: Path) -> None:
    head = bundle_folder / "golden/head"
    command = [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "--config_file",
        str(bundle_folder / "configs/inference.json"),
    ]
    done = subprocess.run(
        [*command, "--bundle_root", str(bundle_folder), "--dicom", str(head)],
        capture_output=True, text=True, check=False, timeout=patience(280),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout[done.stdout.index("\n[\n") :])  # MONAI's own log lines come first
    result = classify(sorted(head.iterdir()), bundle, OpenVinoEngine(bundle))
    assert answer["status"] == "classified"
    assert answer["instances"] == 3
    assert answer["label"] == result.label
    assert answer["probabilities"] == pytest.approx(dict(result.probabilities), abs=1e-6)


def test_what_cannot_be_judged_keeps_its_reason(
    bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = (bundle_folder / "golden/head/0.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(broken[:-5000])
    (tmp_path / "notes.txt").write_text("no DICOM")
    run_bundle(str(bundle_folder), str(tmp_path))
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["status"] == "not-assessed"
    assert answer["reason"]


def test_a_bundle_of_format_two_says_on_what_its_answer_rests(
    bundle_two_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (bundle_two_folder / "golden/head").iterdir():
        ds = dcmread(path)
        ds.SeriesDescription = "T2 TSE"
        ds.save_as(tmp_path / path.name)
    run_bundle(str(bundle_two_folder), str(tmp_path))
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["status"] == "classified"
    assert (answer["basis"]["sequence"], answer["basis"]["sequence_source"]) == ("T2", "header")
    assert answer["basis"]["slices_with_say"] == 3


def test_faults_end_in_one_line(bundle_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no DICOM series"):
        run_bundle(str(bundle_folder), str(tmp_path))
    with pytest.raises(SystemExit, match="no model bundle"):
        run_bundle(str(tmp_path), str(bundle_folder / "golden"))


def test_series_are_told_apart(bundle_folder: Path) -> None:
    found = series_below(bundle_folder / "golden")
    assert [len(files) for files in found.values()] == [3]
    assert series_below(bundle_folder / "golden/head/1.dcm")
