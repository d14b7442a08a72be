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
from worker.inference.display import (
    StoredSlice,
    activation_png,
    grey_window,
    key_image,
    slice_facts,
    slice_png,
    stored_key_images,
)
from worker.inference.preprocess import Preprocessing, preprocess
from worker.pixels.colour_map import ACTIVATION_THRESHOLD
from worker.pixels.geometry import Edges
from worker.results import Activation

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


HEAD = np.where(np.hypot(*np.mgrid[-1:1:64j, -1:1:64j]) < 0.6, 500, 0).astype(np.uint16)
WHOLE = Activation(rows=((255, 255), (255, 255)), top=0.0, left=0.0, height=1.0, width=1.0)


def test_slice_is_shown_by_the_window_of_its_header(tmp_path: Path) -> None:
    file = save(image(RAMP, WindowCenter=300, WindowWidth=201, **AXIAL), tmp_path / "a.dcm")
    grey = shown(file, (0, 630))
    assert np.abs(grey - np.clip((RAMP - 199.5) / 200, 0, 1) * 255).max() <= 1
    with Image.open(io.BytesIO(slice_png(file, None, (0, 630), 0.5, 1.5))) as png:
        assert np.abs(np.asarray(png) - np.clip((RAMP - 300.0) / 200, 0, 1) * 255).max() <= 2


def test_colour_is_shown_without_the_window_of_its_header(tmp_path: Path) -> None:
    grey = np.clip(RAMP // 3, 0, 255).astype(np.uint8)
    file = save(image(np.stack([grey] * 3, axis=-1), WindowCenter=5, WindowWidth=3), tmp_path / "a.dcm")
    assert np.abs(shown(file, (0, 255)).astype(int) - grey).max() <= 1


def test_facts_are_edges_and_position(tmp_path: Path) -> None:
    placed = AXIAL | {"ImagePositionPatient": [-3, 4, 12.5]}
    facts = slice_facts(save(image(RAMP, **placed), tmp_path / "a.dcm"), None, (0, 630))
    edges = {"left": "R", "right": "L", "top": "A", "bottom": "P"}
    assert facts == {"edges": edges, "position_mm": 12.5, "range": (0, 630)}
    windowed = save(image(RAMP, WindowCenter=300, WindowWidth=201), tmp_path / "b.dcm")
    assert slice_facts(windowed, None, (0, 630)) == {"edges": None, "position_mm": None, "range": (199.5, 400.5)}
    colour = save(image(np.stack([RAMP.astype(np.uint8)] * 3, axis=-1)), tmp_path / "c.dcm")
    assert slice_facts(colour, None, (0, 255))["range"] is None


def painted(file: Path, activation: Activation) -> npt.NDArray[Any]:
    with Image.open(io.BytesIO(activation_png(file, None, activation))) as png:
        assert png.mode == "RGBA"
        return np.asarray(png)


def test_map_ends_at_the_head(tmp_path: Path) -> None:
    layer = painted(save(image(HEAD, **AXIAL), tmp_path / "a.dcm"), WHOLE)
    assert layer.shape == (64, 64, 4)
    assert (layer[..., 3] > 200)[HEAD > 0].mean() > 0.97
    assert (layer[..., 3] > 0)[HEAD == 0].mean() < 0.05


def test_map_lies_where_it_was_computed(tmp_path: Path) -> None:
    file = save(image(RAMP + 1, **AXIAL), tmp_path / "a.dcm")
    right = Activation(rows=((255, 255), (255, 255)), top=0.25, left=0.5, height=0.5, width=0.5)
    layer = painted(file, right)[..., 3]
    assert layer[18:46, 34:62].min() > 200
    assert layer[:15].max() == layer[50:].max() == layer[:, :30].max() == 0


def test_key_image_is_the_slice_of_the_page_with_its_edges_and_its_map_within_the_head(tmp_path: Path) -> None:
    with_window = {"WindowCenter": 250, "WindowWidth": 400, "SeriesInstanceUID": "1.2"} | AXIAL
    file = save(image(HEAD + RAMP // 10, **with_window), tmp_path / "a.dcm")
    volume = preprocess([file], Preprocessing(size=64))
    key = key_image(volume, 0, np.ones((5, 5), np.float32))
    assert np.array_equal(key.image, shown(file, (0, 1)))
    assert key.edges == Edges("R", "L", "A", "P")
    assert key.activation is not None
    assert (key.activation > 0.9)[HEAD > 0].mean() > 0.97
    assert (key.activation > 0)[HEAD == 0].mean() < 0.05
    bare = preprocess([save(image(HEAD), tmp_path / "b.dcm")], Preprocessing(size=64))
    assert np.array_equal(key_image(bare, 0, None).image, bare.displayed(0))
    assert (key_image(bare, 0, None).edges, key_image(bare, 0, None).activation) == (None, None)


def test_key_images_of_stored_slices_are_what_the_page_shows(tmp_path: Path) -> None:
    files = [save(image(RAMP + 9 * number, **AXIAL), tmp_path / f"{number}.dcm") for number in range(2)]
    whole = Activation(tuple((255,) * 8 for _ in range(8)), 0.0, 0.0, 1.0, 1.0)
    with_map, plain = stored_key_images(
        [StoredSlice(4, files[0], None, whole), StoredSlice(7, files[1], None, None)], files
    )
    assert (with_map.slice_index, plain.slice_index) == (4, 7)
    for key, file in ((with_map, files[0]), (plain, files[1])):
        assert np.array_equal(key.image, shown(file, grey_window(files)))
    assert plain.activation is None
    assert with_map.activation is not None
    assert with_map.activation.shape == with_map.image.shape
    with Image.open(io.BytesIO(activation_png(files[0], None, whole))) as png:
        assert np.array_equal(np.asarray(png)[..., 3] > 0, with_map.activation >= ACTIVATION_THRESHOLD)
