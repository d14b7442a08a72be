"""Synthetic T1c slices without a tumour: the other hemisphere mirrored over the tumour's box.

The public data hold no contrast-enhanced head without a tumour, so a network may mistake the contrast for the tumour.
Only slices that are symmetrical enough (axial and coronal, upright, tumour on one side) can be used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from monai_train.training.augment import BACKGROUND

_LOWEST_SYMMETRY = 0.5  # normalised cross-correlation with the mirror image, outside both boxes
_WIDEST_SHIFT = 0.06  # of the midline from the centre of the picture, as a fraction
_MARGIN = 1.15  # by which boxes are enlarged: they are drawn tightly, and enhancement fades out


@dataclass(frozen=True, eq=False, slots=True)
class Mirrors:
    """`index` [m] into the pictures; `removed` and `doubled` uint8 [m, 1, s, s]: without the tumour, and with two."""

    index: torch.Tensor
    removed: torch.Tensor
    doubled: torch.Tensor


def box_mask(boxes: torch.Tensor, size: int, margin: float) -> torch.Tensor:
    """[n, 4] fractions → bool [n, 1, size, size]; nothing for a box of NaN."""
    axis = (torch.arange(size) + 0.5) / size
    half = boxes[:, 2:] * margin / 2
    across = (axis[None] - boxes[:, :1]).abs() <= half[:, :1]
    down = (axis[None] - boxes[:, 1:2]).abs() <= half[:, 1:]
    return (down[:, :, None] & across[:, None, :])[:, None]


def _symmetry(images: torch.Tensor, boxes: torch.Tensor, shift: int) -> torch.Tensor:
    """Correlation [n] of each image with its mirror image shifted by `shift` pixels, tumours excluded."""
    boxed = box_mask(boxes, images.shape[-1], _MARGIN)
    other = images.flip(3).roll(shift, 3)
    used = ~(boxed | boxed.flip(3).roll(shift, 3)) & ((images > BACKGROUND) | (other > BACKGROUND))
    weight = used / used.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)
    a = images - (images * weight).sum(dim=(1, 2, 3), keepdim=True)
    b = other - (other * weight).sum(dim=(1, 2, 3), keepdim=True)
    covariance = (a * b * weight).sum(dim=(1, 2, 3))
    variances = (a * a * weight).sum(dim=(1, 2, 3)) * (b * b * weight).sum(dim=(1, 2, 3))
    return covariance / variances.clamp(min=1e-12).sqrt()


def _feathered(boxes: torch.Tensor, size: int) -> torch.Tensor:
    """A soft ellipse over each box, 1 inside and 0 outside: float [n, 1, size, size]."""
    axis = (torch.arange(size) + 0.5) / size
    half = (boxes[:, 2:] / 2).clamp(min=0.02) * 1.25
    x = ((axis[None] - boxes[:, :1]) / half[:, :1]) ** 2
    y = ((axis[None] - boxes[:, 1:2]) / half[:, 1:]) ** 2
    return torch.sigmoid((1.15 - (y[:, :, None] + x[:, None, :]).sqrt()) / 0.06)[:, None]


def make_mirrors(pixels: torch.Tensor, boxes: torch.Tensor) -> Mirrors:
    """The mirrors of those pictures uint8 [n, 1, s, s] with boxes [n, 4] (NaN without a box) that can be used."""
    candidates = torch.nonzero(boxes.isfinite().all(dim=1)).flatten()
    kept: list[torch.Tensor] = []
    removed: list[torch.Tensor] = []
    doubled: list[torch.Tensor] = []
    for index in torch.split(candidates, 128):
        images, box = pixels[index].float() / 255, boxes[index]
        size = images.shape[-1]
        small = functional.avg_pool2d(images, 2)
        reach = int(_WIDEST_SHIFT * size)
        scores = torch.stack([_symmetry(small, box, shift) for shift in range(-reach, reach + 1)])
        score, best = scores.max(dim=0)
        shift = 2 * (best - reach)
        midline = 0.5 + shift / (2 * size)
        one_sided = (box[:, 0] - midline).abs() >= box[:, 2] * _MARGIN / 2
        for i in torch.nonzero((score >= _LOWEST_SYMMETRY) & one_sided).flatten().tolist():
            image, tumour = images[i : i + 1], box[i : i + 1]
            mirror = image.flip(3).roll(int(shift[i]), 3)
            opposite = tumour.clone()
            opposite[:, 0] = 2 * midline[i] - tumour[:, 0]
            seam, opposite_seam = _feathered(tumour, size), _feathered(opposite, size)
            removed.append(image * (1 - seam) + mirror * seam)
            doubled.append(image * (1 - opposite_seam) + mirror * opposite_seam)
            kept.append(index[i])
    if not kept:
        empty = torch.empty((0, *pixels.shape[1:]), dtype=torch.uint8)
        return Mirrors(torch.empty(0, dtype=torch.long), empty, empty)
    return Mirrors(torch.stack(kept), _bytes(removed), _bytes(doubled))


def _bytes(images: list[torch.Tensor]) -> torch.Tensor:
    return (torch.cat(images) * 255).round().to(torch.uint8)
