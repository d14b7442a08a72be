"""A lesion pasted by its mask brings its contrast along and leaves the rest of the head as it is."""

from __future__ import annotations

import torch

from monai_train.training.augment import pixel_grid
from monai_train.training.paste_masks import paste_masked


def _disc(radius: float, x: float = 0.5, y: float = 0.5) -> torch.Tensor:
    offset = pixel_grid(96) - torch.tensor([x, y])
    return (offset.norm(dim=-1) < radius).float()[None, None].repeat(8, 1, 1, 1)


def test_a_bright_lesion_is_bright_in_a_head_of_another_level() -> None:
    donors = 0.4 * _disc(0.45) + 0.4 * _disc(0.1)
    heads = 0.2 * _disc(0.45)
    images, masks = paste_masked(heads, donors, _disc(0.1), torch.Generator().manual_seed(3))
    inside = masks > 0.9
    assert inside.flatten(1).any(dim=1).sum() >= 6  # the others fell outside the head
    assert (images[inside] > 0.3).float().mean() > 0.95
    assert torch.equal(images[masks == 0], heads[masks == 0])


def test_a_lesion_outside_the_head_leaves_it_unchanged() -> None:
    heads = torch.zeros(8, 1, 96, 96)
    images, masks = paste_masked(heads, _disc(0.45), _disc(0.1), torch.Generator().manual_seed(3))
    assert not masks.any()
    assert torch.equal(images, heads)


def test_tissue_pasted_under_a_mask_stays_at_the_level_of_the_head() -> None:
    heads, donors = 0.3 * _disc(0.45), 0.6 * _disc(0.45)
    images, masks = paste_masked(heads, donors, _disc(0.1), torch.Generator().manual_seed(3))
    inside = (masks > 0.9) & (heads > 0)
    assert (images[inside] - 0.3).abs().mean() < 0.05
