"""The pixels that training sees are the worker's, and boxes follow the crop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monai_train.data.dataset import PREPROCESSING_FILE, load_pictures, read_preprocessing
from monai_train.data.manifest import read_manifest
from tests.testbed.converted import make_converted
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


def test_shipped_definition_is_valid() -> None:
    assert read_preprocessing(PREPROCESSING_FILE).size == 160
