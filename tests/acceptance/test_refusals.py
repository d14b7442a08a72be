"""Series that a structural classifier must not judge end with a reason, never with a class (invariant 8)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.testbed import phantom
from tests.testbed.site import Site

STAND_INS: dict[str, Callable[[Path], list[Path]]] = {
    "ge-epi": phantom.epi_series,
    "siemens-epi-mosaic": phantom.mosaic_series,
    "localizer": phantom.localizer,
    "single-slice": lambda folder: phantom.head_series(folder, grid=phantom.Grid(slices=1)),
    "other-modality": lambda folder: phantom.head_series(
        folder, grid=phantom.Grid(slices=5), attributes={"Modality": "CT"}
    ),
    "knee": lambda folder: phantom.head_series(
        folder, grid=phantom.Grid(slices=5), attributes={"BodyPartExamined": "KNEE"}
    ),
}


def assert_never_a_class(hospital: Site, paths: list[Path]) -> None:
    source = hospital.push(paths)
    result = hospital.worker.wait_for_result(source.SeriesInstanceUID)
    assert result["status"] in ("refused", "not-assessed")
    assert result["label"] is None
    assert result["reason"]


@pytest.mark.parametrize("kind", STAND_INS)
def test_series_is_refused_with_a_reason(kind: str, hospital: Site, tmp_path: Path) -> None:
    assert_never_a_class(hospital, STAND_INS[kind](tmp_path))


@pytest.mark.parametrize("kind", ["ge-epi", "siemens-epi-mosaic"])
def test_real_functional_series_is_refused_with_a_reason(kind: str, hospital: Site, brain_mri_data: Path) -> None:
    assert_never_a_class(hospital, sorted((brain_mri_data / "mr-series" / kind).glob("*.dcm")))


def test_functional_series_without_its_labels_is_not_classified(
    hospital: Site, brain_mri_data: Path, tmp_path: Path
) -> None:
    """The pixels alone, with nothing in the header that gives them away."""
    paths: list[Path] = []
    for path in sorted((brain_mri_data / "mr-series" / "ge-epi").glob("*.dcm"))[:30]:
        ds = dcmread(path)
        ds.ImageType = ["ORIGINAL", "PRIMARY"]
        ds.ScanningSequence = "SE"
        ds.SeriesInstanceUID = ds.SeriesInstanceUID[:-3] + "999"
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID[:-3] + f"9{len(paths):02d}"
        paths.append(tmp_path / path.name)
        ds.save_as(paths[-1])
    assert_never_a_class(hospital, paths)
