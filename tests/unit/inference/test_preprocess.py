from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.uid import SecondaryCaptureImageStorage

from tests.testbed.images import image, save
from worker.errors import NotAssessable, StartError
from worker.inference.preprocess import Preprocessing, Volume, preprocess, preprocess_image

DEFINITION = Preprocessing(size=64)
AXIAL = [1, 0, 0, 0, 1, 0]


def head(
    rows: int = 160, columns: int = 160, *, scale: float = 1.0, centre: tuple[float, float] = (0.0, 0.0)
) -> npt.NDArray[np.float64]:
    """An ellipse with texture and one bright spot right of and above its middle, 0 to 1, on a dark background."""
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    y, x = (y - centre[0]) / scale, (x - centre[1]) / scale
    inside = (y / 0.7) ** 2 + (x / 0.55) ** 2 < 1
    spot = np.hypot(y + 0.3, x - 0.2) < 0.1
    return np.asarray(inside * (0.5 + 0.1 * np.sin(9 * y) * np.cos(7 * x)) + 0.4 * spot)


def grey(picture: npt.NDArray[np.float64], top: int = 4000, dtype: Any = np.uint16) -> npt.NDArray[Any]:
    return (picture * top).astype(dtype)


def series(folder: Path, pictures: list[npt.NDArray[Any]], **attributes: Any) -> list[Path]:
    """Axial MR slices, 5 mm apart."""
    paths = []
    for index, pixels in enumerate(pictures):
        geometry = {"ImageOrientationPatient": AXIAL, "ImagePositionPatient": [0, 0, 5 * index]}
        ds = image(pixels, InstanceNumber=index + 1, **geometry | attributes)
        paths.append(save(ds, folder / f"{index}.dcm"))
    return paths


def test_definition_survives_json() -> None:
    changed = Preprocessing(size=128, lower_percentile=2, margin=0.1)
    assert Preprocessing.from_json(changed.to_json()) == changed


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sise": 160}, "sise"),
        ({"size": None}, "size"),
        ({"size": "160"}, "size"),
        ({"size": 160.5}, "size"),
        ({"size": True}, "size"),
        ({"size": 4}, "range"),
        ({"lower_percentile": 99.9}, "range"),
        ({"slice_spacing_mm": 0.5}, "range"),
        ({"slice_spacing_mm": 2.0, "reformat_below_mm": 2.5}, "range"),
        ({"reformat_below_mm": 2.5}, "range"),
        ({"slice_spacing_mm": 5.0, "reformat_below_mm": -1}, "range"),
        ({"slice_spacing_mm": float("nan")}, "range"),
        ({"grey_background": 0.6}, "range"),
        ({"_target_": "os.system"}, "another implementation"),
    ],
    ids=lambda value: str(value),
)
def test_definition_refuses_what_it_does_not_know(change: dict[str, Any], named: str) -> None:
    with pytest.raises(StartError, match=named):
        Preprocessing.from_json(DEFINITION.to_json() | change)


def test_definition_of_an_earlier_bundle_reformats_nothing() -> None:
    values = DEFINITION.to_json()
    later = ("slice_spacing_mm", "reformat_below_mm", "grey_background")
    earlier = {key: value for key, value in values.items() if key not in later}
    assert len(earlier) == len(values) - 3
    assert Preprocessing.from_json(earlier) == DEFINITION
    assert Preprocessing.from_json(earlier | {"grey_background": 0.1}) == replace(DEFINITION, grey_background=0.1)
    with pytest.raises(StartError, match="'reformat_below_mm' is missing"):
        Preprocessing.from_json(earlier | {"slice_spacing_mm": 5.0})


def test_a_thin_series_is_reformatted_where_the_definition_says_so(tmp_path: Path) -> None:
    pictures = [grey(head())] * 12
    paths = []
    for index, path in enumerate(series(tmp_path, pictures)):
        ds = dcmread(path)
        ds.ImagePositionPatient = [0, 0, 1.5 * index]
        ds.save_as(path)
        paths.append(path)
    assert len(preprocess(paths, DEFINITION).frames) == 12
    made = preprocess(paths, replace(DEFINITION, slice_spacing_mm=5.0, reformat_below_mm=2.0))
    assert [frame.position_mm for frame in made.frames] == [2.5, 7.5, 12.5]  # of -0.75 to 17.25 mm
    assert [frame.path.name for frame in made.frames] == ["2.dcm", "5.dcm", "8.dcm"]
    assert made.is_reformatted
    assert made.tensor.shape == (3, 1, 64, 64)
    np.testing.assert_allclose(made.tensor[1], preprocess(paths[:1], DEFINITION).tensor[0], atol=0.1)


def test_air_that_is_grey_becomes_black(tmp_path: Path) -> None:
    """As in phase-sensitive inversion recovery, where fluid is darker than air."""
    air, fluid = head() == 0, np.hypot(*np.mgrid[-1 : 1 : 160 * 1j, -1 : 1 : 160 * 1j]) < 0.15
    tensors, sides = [], []
    for name, background in (("grey", 0.3), ("black", 0.0)):
        (tmp_path / name).mkdir()
        picture = np.where(air, background, np.where(fluid, 0.0, head()))
        paths = series(tmp_path / name, [grey(picture)] * 3)
        volume = preprocess(paths, replace(DEFINITION, grey_background=0.1))
        tensors.append(volume.tensor)
        sides.append(volume.squares[0].side)
        untouched = preprocess(paths, DEFINITION)
        if name == "grey":
            assert untouched.tensor[:, :, 8, 8].min() > 0.2
            assert untouched.squares[0].side > sides[0]  # the head does not stand out
        else:
            np.testing.assert_array_equal(volume.tensor, untouched.tensor)
    assert sides[0] == pytest.approx(sides[1], rel=0.05)
    assert np.abs(tensors[0] - tensors[1]).mean() < 0.05
    assert (tensors[0][:, :, 8, 8] == 0).all()


def test_definition_must_be_complete() -> None:
    with pytest.raises(StartError, match="'margin' is missing"):
        Preprocessing.from_json({key: value for key, value in DEFINITION.to_json().items() if key != "margin"})


def test_tensor_is_the_cropped_head_in_its_grey_window(tmp_path: Path) -> None:
    volume = preprocess(series(tmp_path, [grey(head(scale=0.5))] * 3), DEFINITION)
    assert volume.tensor.shape == (3, 1, 64, 64)
    assert volume.tensor.dtype == np.float32
    assert (volume.tensor.min(), volume.tensor.max()) == (0, 1)
    rows = np.flatnonzero(volume.tensor[1, 0].max(axis=1) > 0.2)
    assert 64 * 0.9 <= rows[-1] - rows[0] + 1 <= 64 * 0.96
    assert [frame.position_mm for frame in volume.frames] == [0, 5, 10]


@settings(max_examples=30, deadline=None)
@given(slope=st.floats(0.01, 100), intercept=st.floats(-1000, 1000))
def test_rescaling_does_not_change_the_tensor(
    tmp_path_factory: pytest.TempPathFactory, slope: float, intercept: float
) -> None:
    folder = tmp_path_factory.mktemp("series")
    plain = preprocess(series(folder, [grey(head())]), DEFINITION).tensor
    values = {"RescaleSlope": f"{slope:.6g}", "RescaleIntercept": f"{intercept:.6g}"}
    np.testing.assert_allclose(
        preprocess(series(folder, [grey(head())], **values), DEFINITION).tensor, plain, atol=1 / 255 + 1e-6
    )


def test_inverted_grey_gives_the_same_tensor(tmp_path: Path) -> None:
    plain = preprocess(series(tmp_path, [grey(head())]), DEFINITION).tensor
    inverted = series(tmp_path, [4095 - grey(head())], PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(preprocess(inverted, DEFINITION).tensor, plain, atol=1.01 / 255)


def test_slices_are_windowed_together(tmp_path: Path) -> None:
    pictures = [grey(head()), grey(head() * 0.5)]
    together = preprocess(series(tmp_path, pictures), DEFINITION).tensor
    assert together[1].max() < 0.6
    assert preprocess(series(tmp_path, pictures[1:]), DEFINITION).tensor.max() == 1


def test_order_of_files_does_not_matter(tmp_path: Path) -> None:
    paths = series(tmp_path, [grey(head() * level) for level in (0.5, 0.7, 0.9)])
    one, other = preprocess(paths, DEFINITION), preprocess(paths[::-1], DEFINITION)
    np.testing.assert_array_equal(one.tensor, other.tensor)
    assert one.frames == other.frames


def test_single_picture_goes_the_same_way_as_its_dicom_file(tmp_path: Path) -> None:
    pixels = grey(head(150, 120), 255, np.uint8)
    rgb = np.stack([pixels] * 3, axis=-1)
    for one in (pixels, rgb):
        path = save(image(one, SOPClassUID=SecondaryCaptureImageStorage), tmp_path / "a.dcm")
        np.testing.assert_array_equal(preprocess([path], DEFINITION).tensor[0], preprocess_image(pixels, DEFINITION))


def test_a_picture_of_many_sizes_gives_nearly_one_tensor() -> None:
    small, large = (preprocess_image(grey(head(side, side)), DEFINITION) for side in (150, 1200))
    assert np.abs(small - large).mean() < 0.02


@pytest.mark.parametrize("shift", [(-0.2, 0.2), (0.25, -0.3)])
def test_head_is_found_wherever_it_lies(shift: tuple[float, float]) -> None:
    centred, shifted = (
        preprocess_image(grey(head(200, 200, scale=0.6, centre=one)), DEFINITION) for one in ((0.0, 0.0), shift)
    )
    assert np.abs(centred - shifted).mean() < 0.03


def test_noise_and_letters_do_not_move_the_crop() -> None:
    noisy = head(200, 200, scale=0.6) + np.abs(np.random.default_rng(4).normal(0, 0.03, (200, 200)))
    noisy[5:15, 5:40:4] = 1.0
    clean = preprocess_image(grey(head(200, 200, scale=0.6)), DEFINITION)
    assert np.corrcoef(preprocess_image(grey(noisy), DEFINITION).ravel(), clean.ravel())[0, 1] > 0.97


def test_little_head_is_not_blown_up(tmp_path: Path) -> None:
    pictures = [grey(head()), grey(head(scale=0.15)), grey(head() * 0)]
    volume = preprocess(series(tmp_path, pictures), DEFINITION)
    largest, vertex, air = (square.side for square in volume.squares)
    assert vertex == pytest.approx(DEFINITION.minimum_extent * largest)
    assert air == largest
    assert volume.tensor[2].max() == 0


def test_oblong_pixels_give_the_same_tensor_and_a_square_picture(tmp_path: Path) -> None:
    pixels = head(160, 160)
    square = preprocess(series(tmp_path, [grey(pixels)], PixelSpacing=[1, 1]), DEFINITION)
    pairs = pixels.reshape(80, 2, 160).mean(axis=1)
    oblong = preprocess(series(tmp_path, [grey(pairs)], PixelSpacing=[2, 1]), DEFINITION)
    assert oblong.displayed(0).shape == square.displayed(0).shape == (160, 160)
    assert np.abs(oblong.tensor - square.tensor).mean() < 0.02


def test_picture_is_oriented_and_at_most_512(tmp_path: Path) -> None:
    feet_up = {"ImageOrientationPatient": [1, 0, 0, 0, 0, 1], "ImagePositionPatient": [0, 0, 0]}
    upright = head(900, 700)
    picture = preprocess(series(tmp_path, [grey(upright[::-1])], **feet_up), DEFINITION).displayed(0)
    assert picture.dtype == np.uint8
    assert picture.shape == (512, 398)
    shrunk = preprocess(series(tmp_path, [grey(upright)]), DEFINITION).displayed(0)
    np.testing.assert_allclose(picture.astype(int), shrunk, atol=1)


@pytest.mark.parametrize("pixel_mm", [(1, 1), (1, 2)])
def test_activation_lies_over_what_it_was_computed_from(tmp_path: Path, pixel_mm: tuple[int, int]) -> None:
    pixels = grey(head(160, 160 // pixel_mm[1], scale=0.6, centre=(0.2, -0.3)))
    volume = preprocess(series(tmp_path, [pixels], PixelSpacing=list(pixel_mm)), DEFINITION)
    blocks = volume.tensor[0, 0].reshape(8, 8, 8, 8).mean(axis=(1, 3))
    np.testing.assert_allclose(
        _centre(volume.map_on_display(0, blocks)), _centre(volume.displayed(0) / 255.0), atol=1.5
    )


def test_activation_is_nothing_outside_the_crop(tmp_path: Path) -> None:
    volume = preprocess(series(tmp_path, [grey(head(scale=0.4))]), DEFINITION)
    shown = volume.map_on_display(0, np.ones((5, 5), np.float32))
    square = volume.squares[0]
    assert shown.shape == volume.displayed(0).shape
    assert shown.sum() == pytest.approx(square.side**2, rel=0.01)
    assert shown[0, 0] == 0
    assert shown.max() == pytest.approx(1)


def _centre(picture: npt.NDArray[Any]) -> tuple[float, float]:
    rows, columns = np.indices(picture.shape)
    return float((rows * picture).sum() / picture.sum()), float((columns * picture).sum() / picture.sum())


def _blank(folder: Path) -> list[Path]:
    return series(folder, [np.full((64, 64), 7, np.uint16)] * 2)


def _with_text(folder: Path) -> list[Path]:
    paths = series(folder, [grey(head())])
    (folder / "notes.txt").write_text("CANARY")
    return [*paths, folder / "notes.txt"]


@pytest.mark.parametrize(
    ("reason", "make"),
    [
        ("no-images", lambda folder: []),
        ("blank-image", _blank),
        ("not-dicom", _with_text),
        ("mixed-sizes", lambda folder: series(folder, [grey(head()), grey(head(100, 100))])),
        ("duplicate-positions", lambda folder: series(folder, [grey(head())] * 2, ImagePositionPatient=[0, 0, 0])),
    ],
)
def test_bad_series_has_a_reason(tmp_path: Path, reason: str, make: Callable[[Path], list[Path]]) -> None:
    with pytest.raises(NotAssessable) as raised:
        preprocess(make(tmp_path), DEFINITION)
    assert raised.value.reason == reason


def test_series_that_is_too_large_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.pixels.decode.MAXIMUM_FILE_SAMPLES", 160 * 160 * 2)
    with pytest.raises(NotAssessable, match="image-too-large"):
        preprocess(series(tmp_path, [grey(head())] * 3), DEFINITION)


def test_tensor_has_the_same_bits_on_a_cpu_without_vector_instructions(tmp_path: Path) -> None:
    noise = np.random.default_rng(8).normal(1, 0.2, (3, 160, 160))
    paths = series(tmp_path, [grey(head() * one) for one in noise])
    code = (
        "import sys; from pathlib import Path; from worker.inference.preprocess import *; "
        "volume = preprocess([Path(one) for one in sys.argv[1:]], Preprocessing(size=64)); "
        "sys.stdout.buffer.write(volume.tensor.tobytes())"
    )
    features = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    plain = subprocess.run(
        [sys.executable, "-c", code, *paths],
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(features)},
        capture_output=True,
        check=True,
    )
    assert plain.stdout == preprocess(paths, DEFINITION).tensor.tobytes()


def test_importing_needs_neither_torch_nor_openvino() -> None:
    code = (
        "import sys, worker.inference.classify; "
        "sys.exit(bool({'torch', 'monai', 'openvino', 'sqlalchemy', 'pynetdicom'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_crop_cuts_no_tumour(brain_mri_data: Path, tmp_path: Path) -> None:
    with (brain_mri_data / "audit.tsv").open() as table:
        boxed = [row for row in csv.DictReader(table, delimiter="\t") if row["tumour_box_xywh"]]
    assert len(boxed) > 1000
    for row in boxed[::20]:
        pixels = np.asarray(Image.open(brain_mri_data / row["path"]).convert("L"))
        square = preprocess([save(image(pixels), tmp_path / "a.dcm")], DEFINITION).squares[0]
        x, y, width, height = map(float, row["tumour_box_xywh"].split())
        rows, columns = pixels.shape
        assert square.left <= (x - width / 2) * columns + 1
        assert square.top <= (y - height / 2) * rows + 1
        assert (x + width / 2) * columns - 1 <= square.left + square.side
        assert (y + height / 2) * rows - 1 <= square.top + square.side


def _real(folder: Path, name: str) -> list[Path]:
    return sorted((folder / "mr-series" / name).glob("*.dcm"))


@pytest.mark.parametrize("name", ["ge-epi", "siemens-epi-mosaic"])
def test_real_epi_is_refused(brain_mri_data: Path, name: str) -> None:
    with pytest.raises(NotAssessable, match="duplicate-positions"):
        preprocess(_real(brain_mri_data, name), DEFINITION)


def test_real_signed_slice_is_upright(brain_mri_data: Path) -> None:
    volume: Volume = preprocess(_real(brain_mri_data, "ge-epi")[:1], DEFINITION)
    assert volume.frames[0].plane == "axial"
    assert volume.tensor.max() == 1
