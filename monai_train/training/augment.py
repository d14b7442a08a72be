"""Random transforms of training batches, in torch, on the whole batch at once; nothing here runs at evaluation.

Images are float32 [n, 1, s, s] in [0, 1] with a black background; boxes are [n, 4] = x centre, y centre, width,
height as fractions of the image. All random numbers come from the given generator; noise is cut at random from a fixed
sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch.nn import functional

from monai_train.config import Augmentation

Images = torch.Tensor
BACKGROUND = 0.06  # below this an intensity is air


def uniform(n: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    """Random numbers [n] between `low` and `high`."""
    return torch.rand(n, generator=generator) * (high - low) + low


def selected(n: int, probability: float, generator: torch.Generator) -> torch.Tensor:
    """Booleans [n], each true with this probability."""
    return torch.rand(n, generator=generator) < probability


def _as_column(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]


def smooth_field(n: int, size: int, cells: int, generator: torch.Generator) -> torch.Tensor:
    """Smooth random fields [n, 1, size, size] of about unit range, bicubic between `cells` x `cells` values."""
    coarse = torch.randn(n, cells, cells, generator=generator)
    spread = _bicubic(cells, size)
    return (spread.T @ (coarse.view(-1, cells) @ spread).view(n, cells, size))[:, None]


def random_noise(n: int, size: int, generator: torch.Generator) -> Images:
    """Normal noise [n, 1, size, size]: for each picture, a random section of the same long sequence.

    Drawing it anew would take a fifth of the time to augment a batch.
    """
    sequence = _noise_sequence(64 * size * size)
    starts = torch.randint(len(sequence) - size * size, (n,), generator=generator).tolist()
    return torch.stack([sequence[start : start + size * size] for start in starts]).view(n, 1, size, size)


@cache
def _noise_sequence(length: int) -> torch.Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(0))


@cache
def _bicubic(cells: int, size: int) -> torch.Tensor:
    """The weight of every cell in every pixel of a line, [cells, size].

    Two matrix products with it are torch's bicubic interpolation, in a sixth of its time or less on a CPU.
    """
    lines = torch.eye(cells)[None, :, :, None]
    return functional.interpolate(lines, size=(size, 1), mode="bicubic", align_corners=True)[0, :, :, 0]


def box_mean(images: Images, side: int) -> Images:
    """The mean over `side` x `side` pixels (odd) around each pixel, black beyond the edge."""
    band = _band(images.shape[-1], side)
    return band @ images @ band


@cache
def _band(size: int, side: int) -> torch.Tensor:
    """The weight of every pixel of a line in the mean around every pixel, [size, size], symmetric."""
    lines = functional.avg_pool1d(torch.eye(size)[None], side, stride=1, padding=side // 2)
    return lines[0]


def _pixel_line(size: int) -> torch.Tensor:
    """The centre of every pixel of a line as a fraction of it: [size]."""
    return (torch.arange(size) + 0.5) / size


@cache
def pixel_grid(size: int) -> torch.Tensor:
    """The centre of every pixel as fractions of the image: [size, size, (x, y)]."""
    line = _pixel_line(size)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], dim=-1)


def points_in_brain(images: Images, generator: torch.Generator, tries: int = 12) -> torch.Tensor:
    """A random point in each head, [n, 2] as fractions: within the central ellipse and on tissue."""
    n = len(images)
    radius = torch.rand(n, tries, generator=generator).sqrt()
    angle = torch.rand(n, tries, generator=generator) * 2 * math.pi
    points = torch.stack([0.5 + 0.30 * radius * angle.cos(), 0.47 + 0.32 * radius * angle.sin()], dim=-1)
    smooth = box_mean(images, 5)
    values = functional.grid_sample(smooth, (points * 2 - 1)[:, None], align_corners=False)[:, 0, 0]
    first = (values > 2 * BACKGROUND).float().argmax(dim=1)  # the first try on tissue, otherwise the first try
    return points[torch.arange(n), first]


def paste(
    heads: Images, donors: Images, boxes: torch.Tensor, points: torch.Tensor, generator: torch.Generator
) -> tuple[Images, torch.Tensor]:
    """Paste the content of each donor's box, rotated, scaled, flipped and matched in level, at `points` of the heads.

    Returns the images and the masks of the pasted content, [n, 1, s, s] from 0 to 1.

    The seam is a feathered, irregular ellipse. The surroundings of the donor's box are matched in level to the head's,
    and every fourth lesion has its contrast inverted, since a tumour may be brighter or darker than its surroundings.
    """
    n, size = len(heads), heads.shape[-1]
    angle = uniform(n, -math.pi, math.pi, generator)
    zoom = uniform(n, 0.75, 1.4, generator)
    flip = 1 - 2 * selected(n, 0.5, generator).float()
    offset = pixel_grid(size)[None] - points[:, None, None, :]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    x, y = offset[..., 0], offset[..., 1]
    turned = torch.stack([flip[:, None, None] * (cos * x + sin * y), cos * y - sin * x], dim=-1)
    turned = turned / zoom[:, None, None, None]
    moved = functional.grid_sample(
        donors, (turned + boxes[:, None, None, :2]) * 2 - 1, align_corners=False, padding_mode="border"
    )
    half = (boxes[:, 2:] / 2).clamp(min=0.03)
    radius = (turned / (1.15 * half[:, None, None, :])).norm(dim=-1)[:, None]
    radius = radius + 0.10 * smooth_field(n, size, 10, generator)
    mask = torch.sigmoid((1 - radius) / 0.07)
    ring = ((radius > 1) & (radius < 1.6)).float()
    weight = ring.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)
    donor_level = (moved * ring).sum(dim=(1, 2, 3), keepdim=True) / weight
    head_level = (heads * ring).sum(dim=(1, 2, 3), keepdim=True) / weight
    gain = _as_column(uniform(n, 0.7, 1.5, generator)) * head_level.clamp(0.2, 0.6) / donor_level.clamp(0.15, 0.8)
    sign = _as_column(1 - 2 * selected(n, 0.25, generator).float())
    content: Images = head_level + sign * gain * (moved - donor_level)
    pasted: Images = heads * (1 - mask) + content.clamp(0, 1) * mask
    return pasted.clamp(0, 1), mask


def simulate_lesions(heads: Images, points: torch.Tensor, generator: torch.Generator) -> tuple[Images, torch.Tensor]:
    """Draw a mass into every head: bright, dark or ring-like, irregular, half of them with oedema around.

    Returns the images and the masks of the mass, [n, 1, s, s] from 0 to 1.
    """
    n, size = len(heads), heads.shape[-1]
    angle = uniform(n, 0, math.pi, generator)[:, None, None]
    offset = pixel_grid(size)[None] - points[:, None, None, :]
    x, y = offset[..., 0], offset[..., 1]
    along, across = angle.cos() * x + angle.sin() * y, angle.cos() * y - angle.sin() * x
    length = uniform(n, 0.04, 0.16, generator)[:, None, None]
    ratio = uniform(n, 0.6, 1.0, generator)[:, None, None]
    radius = torch.sqrt((along / length) ** 2 + (across / (length * ratio)) ** 2)[:, None]
    radius = radius + 0.16 * smooth_field(n, size, 9, generator)
    edge = _as_column(uniform(n, 0.03, 0.12, generator))
    body = torch.sigmoid((1 - radius) / edge)
    thickness = _as_column(uniform(n, 0.15, 0.4, generator))
    core = torch.sigmoid((1 - thickness - radius) / edge)
    ring_like = _as_column(selected(n, 0.5, generator).float())
    sign = _as_column(1 - 2 * selected(n, 0.25, generator).float())
    strength = _as_column(uniform(n, 0.22, 0.6, generator))
    inner = _as_column(uniform(n, -1.3, 0.4, generator))  # the core of a ring, as a share of the rim
    swell = torch.sigmoid((_as_column(uniform(n, 1.5, 2.3, generator)) - radius) / 0.25)
    oedema = _as_column(selected(n, 0.5, generator).float() * uniform(n, -0.25, 0.25, generator))
    texture = 1 + 0.25 * smooth_field(n, size, 24, generator)
    tissue = (heads > BACKGROUND).float()
    added = sign * strength * texture * (body - ring_like * (1 - inner) * core) + oedema * (swell - body).clamp(0)
    # Inside the mass, the anatomy is replaced by an even level.
    # The head is dimmed first, as windowing does if the picture contains something brighter.
    dimmed = heads * _as_column(uniform(n, 0.5, 0.9, generator))
    level = box_mean(dimmed, 15)
    replaced = dimmed * (1 - 0.7 * body) + level * 0.7 * body
    return (replaced + added * tissue).clamp(0, 1), body


def random_affine(images: Images, settings: Augmentation, generator: torch.Generator) -> Images:
    """Flip, rotate, scale, stretch and shift every image at random."""
    n = len(images)
    angle = uniform(n, -1, 1, generator) * math.radians(settings.rotate_degrees)
    grow = (uniform(n, -1, 1, generator) * math.log1p(settings.scale)).exp()
    aspect = (uniform(n, -1, 1, generator) * 0.08).exp()
    flip = 1 - 2 * selected(n, settings.flip, generator).float()
    shift = (torch.rand(n, 2, generator=generator) * 2 - 1) * 2 * settings.shift
    # Equals torch's affine_grid, in a fraction of its time: the terms in x alone and in y alone, then their sum.
    size = images.shape[-1]
    line = 2 * _pixel_line(size) - 1
    matrix = (
        (flip * angle.cos() * grow * aspect, -angle.sin() * grow),
        (flip * angle.sin() * grow, angle.cos() * grow / aspect),
    )
    grid = torch.empty(n, size, size, 2)
    for axis, (by_x, by_y) in enumerate(matrix):
        of_x, of_y = by_x[:, None] * line, by_y[:, None] * line + shift[:, axis, None]
        torch.add(of_x[:, None, :], of_y[:, :, None], out=grid[..., axis])
    return functional.grid_sample(images, grid, align_corners=False)


def _remap(images: Images, generator: torch.Generator, knots: int = 7) -> Images:
    """Map intensities by a random curve through `knots` levels, black stays black, to imitate another contrast."""
    n = len(images)
    curve = torch.rand(n, knots, generator=generator)
    curve = 0.35 * torch.linspace(0, 1, knots) + 0.65 * curve
    curve[:, 0] = 0
    position = images.flatten(1) * (knots - 1)
    low = position.floor().clamp(0, knots - 2).long()
    share = position - low
    value = curve.gather(1, low) * (1 - share) + curve.gather(1, low + 1) * share
    return value.view_as(images).clamp(0, 1)


def _invert(images: Images) -> Images:
    """Invert the head's intensities; air stays black."""
    tissue = torch.sigmoid((images - BACKGROUND) / 0.015)
    return (1 - images) * tissue


def _halved(images: Images) -> Images:
    coarse = functional.interpolate(images, scale_factor=0.5, mode="area")
    return functional.interpolate(coarse, size=images.shape[-2:], mode="bilinear")


def _change_some(
    images: Images, probability: float, generator: torch.Generator, change: Callable[[Images], Images]
) -> torch.Tensor:
    """Apply `change` to a random selection of the images, in place; the others take no time. Returns which, [n]."""
    chosen = selected(len(images), probability, generator)
    if chosen.any():
        images[chosen] = change(images[chosen])
    return chosen


def augment(images: Images, settings: Augmentation, generator: torch.Generator) -> tuple[Images, torch.Tensor]:
    """Change geometry, contrast, bias field, resolution and noise: [n, channels, s, s] in [0, 1] → the same.

    The first channel is the picture; the others are masks, which follow its geometry only. Also returns which pictures
    have the contrast of no sequence any more, bool [n].
    """
    n, size = len(images), images.shape[-1]
    moved = random_affine(images, settings, generator)
    images, masks = moved[:, :1], moved[:, 1:]
    remapped = _change_some(images, settings.remap, generator, lambda some: _remap(some, generator))
    inverted = _change_some(images, settings.invert, generator, _invert)
    gamma = (uniform(n, -1, 1, generator) * settings.gamma).exp()
    images = images.clamp(0, 1) ** _as_column(gamma)
    field = smooth_field(n, size, 3, generator).clamp(-1, 1)
    images = images * (field * _as_column(uniform(n, 0, settings.bias_field, generator))).exp()
    images = images * _as_column(uniform(n, 0.5, 1.2, generator))
    _change_some(images, settings.blur, generator, lambda some: box_mean(some, 3))
    _change_some(images, settings.low_resolution, generator, _halved)
    deviation = _as_column(uniform(n, 0, 1, generator) ** 2 * settings.noise)
    noisy = (images + random_noise(n, size, generator) * deviation).clamp(0, 1)
    return torch.cat([noisy, masks], dim=1), remapped | inverted
