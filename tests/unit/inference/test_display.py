from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.testbed.images import image, save
from worker.errors import NotAssessable
from worker.inference.display import grey_window, slice_png

RAMP = np.tile(np.arange(64, dtype=np.uint16) * 10, (64, 1))  # 0 to 630, brighter to the right
AXIAL = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0, 0, 0]}


def shown(file: Path, window: tuple[float, float], frame: int | None = None) -> npt.NDArray[Any]:
    with Image.open(io.BytesIO(slice_png(file, frame, window))) as png:
        assert (png.format, png.mode) == ("PNG", "L")
        return np.asarray(png)


def test_window_holds_nearly_all_real_values_of_the_series(tmp_path: Path) -> None:
    files = [
        save(image(RAMP + 100 * number, RescaleSlope=2, RescaleIntercept=-50), tmp_path / f"{number}.dcm")
        for number in range(3)
    ]
    low, high = grey_window(files)
    values = np.concatenate([(RAMP[::4, ::4] + 100.0 * number).ravel() * 2 - 50 for number in range(3)])
    assert (low, high) == pytest.approx(tuple(np.percentile(values, (1, 99.7))))


def test_window_of_a_blank_series_is_not_empty(tmp_path: Path) -> None:
    low, high = grey_window([save(image(np.full((16, 16), 7, np.uint16)), tmp_path / "a.dcm")])
    assert (low, high) == (7, 8)


def test_slice_is_windowed_between_black_and_white(tmp_path: Path) -> None:
    grey = shown(save(image(RAMP, **AXIAL), tmp_path / "a.dcm"), (100, 500))
    assert np.abs(grey - np.clip((RAMP - 100.0) / 400, 0, 1) * 255).max() <= 1


def test_slice_is_oriented_for_display(tmp_path: Path) -> None:
    upright = RAMP + np.arange(64, dtype=np.uint16)[:, None]
    plain = shown(save(image(upright, **AXIAL), tmp_path / "a.dcm"), (0, 700))
    flipped = {"ImageOrientationPatient": [-1, 0, 0, 0, -1, 0], "ImagePositionPatient": [0, 0, 0]}
    turned = shown(save(image(upright[::-1, ::-1], **flipped), tmp_path / "b.dcm"), (0, 700))
    assert np.array_equal(plain, turned)


def test_pixels_are_square_and_at_most_512_on_a_side(tmp_path: Path) -> None:
    oblong = save(image(RAMP[::2], PixelSpacing=[2, 1], **AXIAL), tmp_path / "a.dcm")
    assert shown(oblong, (0, 630)).shape == (64, 64)
    large = save(image(np.tile(RAMP, (16, 20)), **AXIAL), tmp_path / "b.dcm")
    assert shown(large, (0, 630)).shape == (410, 512)


def test_frame_by_its_number(tmp_path: Path) -> None:
    file = save(image(np.stack([RAMP, RAMP[:, ::-1]]), NumberOfFrames=2), tmp_path / "a.dcm")
    assert np.array_equal(shown(file, (0, 630), 2), shown(file, (0, 630), 1)[:, ::-1])
    assert np.array_equal(shown(file, (0, 630)), shown(file, (0, 630), 1))
    with pytest.raises(NotAssessable, match="fewer frames"):
        slice_png(file, 3, (0, 630))


def test_file_that_changes_is_read_again(tmp_path: Path) -> None:
    file = save(image(RAMP), tmp_path / "a.dcm")
    before = shown(file, (0, 630))
    save(image(RAMP[:, ::-1]), file)
    assert np.array_equal(shown(file, (0, 630)), before[:, ::-1])


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no DICOM")
    with pytest.raises(NotAssessable):
        grey_window([tmp_path / "x"])
    with pytest.raises(FileNotFoundError):
        slice_png(tmp_path / "absent", None, (0, 1))
