"""Contact sheets hold every image in its square; charts are whole PNG files of the counts and shares that they show."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_train.data.explore_pictures import contact_sheet, counts_chart, intensity_chart

TILE, GAP = 128, 4


def opened(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image)


def test_contact_sheet_scales_every_image_to_its_square(tmp_path: Path) -> None:
    sizes = [(64, 64), (200, 100), (30, 60)]
    paths = []
    for number, (width, height) in enumerate(sizes):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(np.full((height, width), 200, np.uint8)).save(paths[-1])
    sheet = opened(contact_sheet(paths, 2))
    assert sheet.shape == (2 * TILE + GAP, 2 * TILE + GAP)
    assert (sheet[:TILE, :TILE] == 200).all()  # square: it fills its tile
    wide = sheet[:TILE, TILE + GAP :] == 200
    assert (wide.any(axis=0).sum(), wide.any(axis=1).sum()) == (TILE, TILE // 2)
    tall = sheet[TILE + GAP :, :TILE] == 200
    assert (tall.any(axis=0).sum(), tall.any(axis=1).sum()) == (TILE // 2, TILE)
    assert (sheet[TILE + GAP :, TILE + GAP :] == 255).all()  # no fourth image
    assert (sheet[TILE : TILE + GAP] == 255).all()


def test_sixteen_bits_are_scaled_to_the_brightest_value(tmp_path: Path) -> None:
    pixels = np.full((16, 16), 500, np.uint16)
    pixels[:8] = 1000
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    sheet = opened(contact_sheet([tmp_path / "deep.png"], 1))
    assert sheet[:40].min() > 250
    assert abs(int(sheet[-40:].max()) - 127) <= 2


@pytest.mark.parametrize("splits", [["train", "test", "train"], ["", "", ""]])
def test_charts_repeat_to_the_byte(splits: list[str]) -> None:
    labels = ["glioma", "glioma", "notumor"]
    assert opened(counts_chart(labels, splits)).shape[2] == 4
    assert counts_chart(labels, splits) == counts_chart(labels, splits)


def test_intensity_chart_has_a_line_per_class() -> None:
    dark, bright = np.zeros((2, 32), np.float32), np.zeros((1, 32), np.float32)
    dark[:, 0], bright[:, -1] = 1, 1
    both = opened(intensity_chart(["notumor", "notumor", "glioma"], np.concatenate([dark, bright])))
    alone = opened(intensity_chart(["notumor", "notumor"], dark))

    def has(chart: np.ndarray, colour: tuple[int, int, int]) -> bool:
        return bool((np.abs(chart[..., :3].astype(int) - colour).max(axis=2) < 8).any())

    blue, orange = (0, 114, 178), (230, 159, 0)  # Okabe and Ito, in the order of the names
    assert has(both, blue)
    assert has(both, orange)
    assert has(alone, blue)
    assert not has(alone, orange)
