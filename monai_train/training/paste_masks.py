"""Paste a tumour by its mask into a head of the same sequence, so that sequence and slice level say nothing.

A box would carry the surroundings along; a mask takes the lesion alone. Images are float32 [n, 1, s, s] in [0, 1].
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from monai_train.training.augment import BACKGROUND, box_mean, pixel_grid, points_in_brain, selected, uniform

_IN_PLACE = 0.4  # share of lesions that stay where they were, so that most of the anatomy fits
_LEAST_AREA = 40 / 160**2  # of the picture: what is smaller is not told from tissue


def paste_masked(
    heads: torch.Tensor, donors: torch.Tensor, masks: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Paste what lies under each donor's mask [n, 1, s, s] (0 or 1), turned, scaled, flipped and matched in level.

    Returns the images and the pasted masks, 0 to 1; a mask that landed outside the head, or nearly so, is all 0 and
    its head unchanged.
    """
    n, size = len(heads), heads.shape[-1]
    grid = pixel_grid(size)
    area = masks.sum(dim=(1, 2, 3)).clamp(min=1)
    centre = torch.stack([(masks[:, 0] * grid[..., axis]).sum(dim=(1, 2)) / area for axis in (0, 1)], dim=-1)
    stays = selected(n, _IN_PLACE, generator)
    near = centre + 0.05 * torch.randn(n, 2, generator=generator)
    points = torch.where(stays[:, None], near, points_in_brain(heads, generator))
    turn = torch.where(stays, uniform(n, -0.3, 0.3, generator), uniform(n, -math.pi, math.pi, generator))
    zoom = uniform(n, 0.6, 1.3, generator)
    flip = 1 - 2 * selected(n, 0.5, generator).float()
    x, y = (grid[None] - points[:, None, None, :]).unbind(dim=-1)
    cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
    turned = torch.stack([flip[:, None, None] * (cos * x + sin * y), cos * y - sin * x], dim=-1)
    source = (turned / zoom[:, None, None, None] + centre[:, None, None, :]) * 2 - 1
    moved = functional.grid_sample(donors, source, align_corners=False, padding_mode="border")
    mask = functional.grid_sample(masks, source, align_corners=False)
    return _blend(heads, moved, mask, generator)


def _blend(
    heads: torch.Tensor, moved: torch.Tensor, mask: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The lesion over the head, its contrast to the tissue around it kept, within the head only."""
    tissue = (box_mean(heads, 5) > BACKGROUND).float()
    soft = box_mean(mask, 5) * tissue
    around = ((box_mean(mask, 13) > 0.02) & (mask < 0.1)).float() * tissue
    weight = around.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)
    of_donor = (moved * around).sum(dim=(1, 2, 3), keepdim=True) / weight
    of_head = (heads * around).sum(dim=(1, 2, 3), keepdim=True) / weight
    strength = uniform(len(heads), 0.7, 1.3, generator)[:, None, None, None]
    gain = strength * of_head.clamp(0.15, 0.8) / of_donor.clamp(0.15, 0.8)
    content = (of_head + gain * (moved - of_donor)).clamp(0, 1)
    soft = soft * (soft.mean(dim=(1, 2, 3), keepdim=True) > _LEAST_AREA)
    return heads * (1 - soft) + content * soft, soft
