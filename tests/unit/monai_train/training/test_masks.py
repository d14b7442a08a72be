"""Masks lie on the tensors of their pictures, wherever the crop is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_train.data.dataset import load_pictures, read_preprocessing
from monai_train.data.manifest import ManifestRow, read_manifest
from monai_train.training.masks import Masks, load_masks
from tests.testbed.converted import SIZE, make_converted
from worker.errors import StartError


def _masked(folder: Path, mask: np.ndarray) -> list[ManifestRow]:
    """The rows of a converted folder, of which the first glioma has this mask."""
    make_converted(folder, patients=3, external=0)
    Image.fromarray(mask).save(folder / "mask.png")
    rows = list(read_manifest(folder))
    return [replace(row, mask="mask.png") if k == 0 else row for k, row in enumerate(rows)]


def test_the_mask_covers_the_tumour_on_the_tensor(tmp_path: Path) -> None:
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    rows = _masked(tmp_path, (np.hypot(x - 0.35, y - 0.1) < 0.16).astype(np.uint8) * 255)  # as `converted` draws it
    definition = read_preprocessing()
    masks = load_masks(tmp_path, rows, definition)
    picture = load_pictures(tmp_path, rows, definition).pixels[0, 0].float()
    inside = masks.pixels[0, 0] > 0
    assert masks.index.tolist() == [0]
    assert picture[inside].mean() > 230 > 150 > picture[~inside].mean()
    assert load_masks(tmp_path, rows, definition).pixels.equal(masks.pixels)  # from the cache


def test_rows_without_a_mask_have_none(tmp_path: Path) -> None:
    make_converted(tmp_path, patients=3, external=0)
    masks = load_masks(tmp_path, read_manifest(tmp_path), read_preprocessing())
    assert len(masks.index) == len(masks.select([0, 1]).index) == 0
    assert masks.pixels.shape == Masks.none(160).pixels.shape


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    rows = _masked(tmp_path, np.full((10, 10), 255, np.uint8))
    with pytest.raises(StartError, match="not of the size"):
        load_masks(tmp_path, rows, read_preprocessing())


def test_a_mask_that_is_gone_is_named(tmp_path: Path) -> None:
    rows = _masked(tmp_path, np.full((SIZE, SIZE), 255, np.uint8))
    (tmp_path / "mask.png").unlink()
    with pytest.raises(StartError, match=r"cannot read the mask mask\.png"):
        load_masks(tmp_path, rows, read_preprocessing())
