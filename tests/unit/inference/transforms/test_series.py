"""DICOM through MONAI's transforms: axes, values, geometry, and where a slice's map lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from tests.testbed import tutorial
from worker.errors import NotAssessable, StartError
from worker.inference.bundle_schema import Input
from worker.inference.transforms.allowed import MonaiTransforms, Step
from worker.inference.transforms.series import Pipeline, check_shape


def _pipeline(*steps: tuple[str, dict[str, Any]], volumes: bool = False) -> Pipeline:
    return Pipeline(MonaiTransforms.of([Step("LoadImage", {}), *(Step(name, args) for name, args in steps)]), volumes)


def test_a_slice_has_monais_axes_and_its_real_values(tmp_path: Path) -> None:
    files = tutorial.write_series(tmp_path, "left", 2, RescaleSlope=2, RescaleIntercept=-5)
    volume = _pipeline()(files)
    stored = dcmread(files[0]).pixel_array
    assert volume.tensor.shape == (2, 1, 64, 64)
    assert np.array_equal(volume.tensor[0, 0], stored.T * 2.0 - 5)
    assert volume.square_on_display(0) == pytest.approx((0, 0, 1, 1))


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [("Rotate90", {"k": 1})],
        [("Rotate90", {"k": 2}), ("Flip", {"spatial_axis": 0})],
        [("Flip", {"spatial_axis": 1}), ("Resize", {"spatial_size": [32, 16]})],
    ],
)
def test_a_map_is_turned_back_to_the_slice_as_displayed(
    tmp_path: Path, steps: list[tuple[str, dict[str, Any]]]
) -> None:
    files = tutorial.write_series(tmp_path, "left", 1)
    volume = _pipeline(*steps)(files)
    [[upright]] = volume.upright(volume.tensor)
    shown = dcmread(files[0]).pixel_array.astype(float)
    step = shown.shape[0] // upright.shape[0], shown.shape[1] // upright.shape[1]
    coarse = shown.reshape(upright.shape[0], step[0], upright.shape[1], step[1]).mean(axis=(1, 3))
    assert np.corrcoef(coarse.ravel(), upright.ravel())[0, 1] > 0.99
    placed = volume.map_on_display(0, upright)
    assert np.corrcoef(placed.ravel(), shown.ravel())[0, 1] > 0.95


def test_a_crop_covers_its_part_of_the_slice(tmp_path: Path) -> None:
    files = tutorial.write_series(tmp_path, "left", 1, PixelSpacing=[2, 1])
    volume = _pipeline(("CenterSpatialCrop", {"roi_size": [32, 16]}))(files)  # 32 columns, 16 rows
    assert volume.square_on_display(0) == pytest.approx((24 / 64, 16 / 64, 16 / 64, 32 / 64))


def test_a_volume_is_stacked_with_its_affine(tmp_path: Path) -> None:
    files = tutorial.write_series(tmp_path, "left", 5, PixelSpacing=[1, 1])  # 5 mm apart, towards the head
    volume = _pipeline(("Orientation", {"axcodes": "RAS"}), volumes=True)(list(reversed(files)))
    assert volume.tensor.shape == (1, 1, 64, 64, 5)
    stored = np.stack([dcmread(file).pixel_array.T for file in files], axis=-1).astype(np.float32)
    assert np.array_equal(
        volume.tensor[0, 0], stored[::-1, ::-1]
    )  # rows run to the patient's left and back, RAS does not
    spaced = _pipeline(("Spacing", {"pixdim": [2, 2, 2.5]}), volumes=True)(files)
    assert spaced.tensor.shape[2:] == (32, 32, 9)


def test_what_cannot_be_prepared_has_a_reason(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="are for volumes"):
        _pipeline(("Orientation", {"axcodes": "RAS"}))
    files = tutorial.write_series(tmp_path, "left", 6)
    needing = _pipeline(("Spacing", {"pixdim": 1}), volumes=True)
    with pytest.raises(NotAssessable, match="Slices of the volume are missing"):
        needing([files[0], files[1], files[2], files[5]])
    with pytest.raises(NotAssessable, match="too large at the model's spacing"):
        _pipeline(("Spacing", {"pixdim": 0.25}), volumes=True)(
            tutorial.write_series(tmp_path / "far", "left", 4, PixelSpacing=[9, 9])
        )
    nowhere = tutorial.write_series(tmp_path / "nowhere", "left", 3, ImagePositionPatient=None)
    with pytest.raises(NotAssessable, match="no position in space"):
        needing(nowhere)
    with pytest.raises(NotAssessable, match="the model reads 1 x 32 x 32"):
        check_shape(_pipeline()(files), Input(kind="slices", shape=(1, 32, 32)))
