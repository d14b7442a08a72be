"""The other hemisphere replaces a tumour, or receives it, where head and tumour allow it."""

from __future__ import annotations

import numpy as np
import torch

from monai_train.training.mirror import box_mask, make_mirrors
from tests.testbed.converted import head


def heads(label: str = "notumor", count: int = 6) -> torch.Tensor:
    generator = np.random.default_rng(0)
    return torch.stack([torch.from_numpy(head(label, generator))[None].float() / 255 for _ in range(count)])


def test_mirror_removes_and_doubles_the_tumour() -> None:
    pixels = (heads("glioma", 2) * 255).to(torch.uint8)
    boxes = torch.tensor([[0.675, 0.55, 0.17, 0.17], [float("nan")] * 4])
    made = make_mirrors(pixels, boxes)
    assert made.index.tolist() == [0]
    y, x, other = 52, 64, 31
    assert pixels[0, 0, y, x] > 200
    assert made.removed[0, 0, y, x] < 160
    assert made.doubled[0, 0, y, x] > 200
    assert made.doubled[0, 0, y, other] > 200


def test_a_tumour_on_the_midline_has_no_mirror() -> None:
    pixels = (heads("pituitary", 1) * 255).to(torch.uint8)
    made = make_mirrors(pixels, torch.tensor([[0.5, 0.725, 0.1, 0.1]]))
    assert len(made.index) == 0


def test_pictures_without_a_box_have_no_mirror() -> None:
    pixels = (heads("glioma", 2) * 255).to(torch.uint8)
    made = make_mirrors(pixels, torch.full((2, 4), float("nan")))
    assert made.removed.shape == made.doubled.shape == (0, 1, 96, 96)
    assert made.index.dtype == torch.long


def test_box_mask_is_the_box_times_its_margin_and_nothing_for_an_unknown_box() -> None:
    boxes = torch.tensor([[0.5, 0.25, 0.2, 0.1], [float("nan")] * 4])
    mask = box_mask(boxes, 100, 2.0)
    rows, columns = torch.nonzero(mask[0, 0], as_tuple=True)
    assert (int(columns.min()), int(columns.max())) == (30, 69)
    assert (int(rows.min()), int(rows.max())) == (15, 34)
    assert not mask[1].any()
