"""The model that ships, in a running service: what it answers on heads, and that it answers on nothing else.

With BRAIN_MRI_DATA, the real series of its folder mr-series/real, too.
"""

from __future__ import annotations

import csv
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from tests.testbed import phantom, site
from tests.testbed.phantom import Grid
from worker.errors import NotAssessable
from worker.inference.bundle import Bundle, default_bundle, load_bundle
from worker.inference.classify import classify
from worker.inference.engines import OpenVinoEngine

THIN = Grid(slices=160, rows=128, columns=128, pixel_mm=1.8, slice_mm=1.0, plane="sagittal")
T1_3D = {
    "MRAcquisitionType": "3D",
    "ContrastBolusAgent": None,
    "SeriesDescription": "T1 MPRAGE sag",
    "ScanningSequence": ["GR", "IR"],
    "EchoTime": "3",
    "RepetitionTime": "2000",
    "InversionTime": "900",
}
REAL = Path(os.environ.get("BRAIN_MRI_DATA") or "absent") / "mr-series" / "real"

Make = Callable[[Path], list[Path]]
HEADS: dict[str, tuple[Make, Any]] = {  # with whether there is a mass
    "T1 with contrast agent": (phantom.head_series, False),
    "FLAIR": (lambda folder: phantom.head_series(folder, flair=True), False),
    "3-D sagittal T1": (lambda folder: phantom.head_series(folder, grid=THIN, attributes=T1_3D), False),
    "T1 with contrast agent, mass": (lambda folder: phantom.head_series(folder, mass=True), True),
    "FLAIR, mass": (lambda folder: phantom.head_series(folder, mass=True, flair=True), True),
}
NO_HEADS: dict[str, tuple[Make, Any]] = {  # with the reason
    "knee": (phantom.knee_series, "body-part"),  # by its headers
    "knee that is called a brain": (lambda folder: _relabelled(phantom.knee_series(folder)), "not-a-brain"),
    "quality phantom": (phantom.quality_series, "not-a-brain"),
}


def _relabelled(files: list[Path]) -> list[Path]:
    for file in files:
        ds = dcmread(file)
        ds.StudyDescription, ds.SeriesDescription, ds.BodyPartExamined = "Brain", "T1 sagittal brain", "BRAIN"
        ds.save_as(file)
    return files


def _label(files: list[Path], bundle: Bundle, engine: OpenVinoEngine) -> str | None:
    try:
        return classify(files, bundle, engine).label
    except NotAssessable:
        return None


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """The result of every series, by its name; they are all sent before the first is waited for."""
    made = {name: make for name, (make, _) in (HEADS | NO_HEADS).items()}
    with site.running(tmp_path_factory.mktemp("clinic")) as clinic:
        sent = {name: clinic.push(make(tmp_path_factory.mktemp("series"))) for name, make in made.items()}
        yield {name: clinic.worker.wait_for_result(source.SeriesInstanceUID) for name, source in sent.items()}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_answered(results: dict[str, dict[str, Any]], name: str) -> None:
    result, mass = results[name], HEADS[name][1]
    assert result["label"] is not None, result
    assert (result["label"] != "notumor") is mass, result
    if name == "FLAIR, mass":  # no other kind of tumour was on the FLAIR images of training
        assert result["label"] in ("tumor", "glioma")


@pytest.mark.parametrize("name", NO_HEADS)
def test_what_is_no_head_gets_no_class_and_a_reason(results: dict[str, dict[str, Any]], name: str) -> None:
    result = results[name]
    assert (result["label"], result["reason"]) == (None, NO_HEADS[name][1]), result


@pytest.mark.skipif(not (REAL / "series.csv").is_file(), reason="BRAIN_MRI_DATA names no folder with mr-series/real")
def test_no_real_series_gets_a_wrong_class(tmp_path: Path) -> None:
    bundle = load_bundle(default_bundle())
    engine = OpenVinoEngine(bundle)
    with (REAL / "series.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    wrong = []
    for row in rows:
        folder = tmp_path / row["file"]
        with tarfile.open(REAL / row["file"]) as archive:
            archive.extractall(folder, filter="data")
        files = [path for path in folder.rglob("*") if path.is_file() and path.read_bytes()[128:132] == b"DICM"]
        label = _label(files, bundle, engine)
        allowed = {None, row["expected"].partition("classified ")[2] or None}
        if label not in allowed:
            wrong.append((row["file"], label))
    assert wrong == []
