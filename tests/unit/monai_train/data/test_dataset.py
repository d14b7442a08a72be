"""The pixels that training sees are the worker's, and boxes follow the crop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from monai_train.data.convert import convert
from monai_train.data.dataset import load_pictures, preprocess_together, read_preprocessing
from monai_train.data.labels import UNLABELLED
from monai_train.data.manifest import read_manifest
from tests.testbed.converted import make_converted
from tests.testbed.phantom import Grid, head_series
from tests.testbed.reference_systems import manifest_row
from tests.testbed.source_folder import make_slices
from worker.errors import StartError
from worker.inference.preprocess import preprocess


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_converted(tmp_path_factory.mktemp("converted"), patients=3, external=2)


def test_pixels_are_the_workers_and_boxes_follow_the_crop(data: Path) -> None:
    rows = read_manifest(data)
    definition = read_preprocessing()
    pictures = load_pictures(data, rows, definition)
    again = load_pictures(data, rows, definition)
    assert torch.equal(pictures.pixels, again.pixels)
    tensor = preprocess([data / rows[0].path], definition).tensor[0]
    assert torch.equal(pictures.pixels[0], torch.from_numpy((tensor * 255).round().astype("uint8")))
    x, y = (pictures.boxes[0, :2] * definition.size).long().tolist()
    assert pictures.pixels[0, 0, y, x] > 200  # the mass is the brightest part
    assert pictures.boxes[-1].isnan().all()


def test_slices_of_a_series_are_preprocessed_together_whichever_are_chosen(tmp_path: Path) -> None:
    convert(make_slices(tmp_path / "src", patients=1, contrasts=["flair"]), tmp_path / "out")
    rows, definition = read_manifest(tmp_path / "out"), read_preprocessing()
    pictures = load_pictures(tmp_path / "out", rows, definition)
    volume = preprocess([tmp_path / "out" / row.path for row in rows], definition)
    whole = torch.from_numpy((volume.tensor * 255).round().astype("uint8"))
    numbers = [row.slice_number or 0 for row in rows]
    assert torch.equal(pictures.pixels, whole[[number - 1 for number in numbers]])
    chosen = [row for row in rows if row.label == "glioma"]
    some = load_pictures(tmp_path / "out", chosen, definition, classes=pictures.classes)
    assert torch.equal(some.pixels, pictures.pixels[[rows.index(row) for row in chosen]])
    alone = preprocess([tmp_path / "out" / chosen[0].path], definition).tensor[0]
    assert not torch.equal(some.pixels[0], torch.from_numpy((alone * 255).round().astype("uint8")))
    assert pictures.labels[rows.index(next(row for row in rows if not row.label))] == UNLABELLED


def test_file_that_is_gone_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"cannot read .*images"):
        load_pictures(tmp_path, read_manifest(data), read_preprocessing())


def test_slices_of_a_3d_series_are_taken_as_they_are_stored(tmp_path: Path) -> None:
    files = head_series(tmp_path, grid=Grid(slices=8, rows=64, columns=64, pixel_mm=3.75, slice_mm=2.0))
    names = [file.name for file in files]
    rows = [replace(manifest_row(k, "notumor", "g"), path=name, series="s") for k, name in enumerate(names)]
    definition = replace(read_preprocessing(), slice_spacing_mm=5.0, reformat_below_mm=2.6)
    assert len(preprocess(files, definition).frames) < len(files)
    volume, slices = preprocess_together(tmp_path, rows, {"s": names}, definition)
    assert len(volume.frames) == len(files)
    assert [volume.frames[index].path.name for index in slices] == names
