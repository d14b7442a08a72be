"""Random transforms keep range and background, depend on their generator alone, and put lesions where they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from monai_train.config import Augmentation
from monai_train.training.augment import (
    augment,
    box_mean,
    paste,
    points_in_brain,
    random_affine,
    random_noise,
    simulate_lesions,
    smooth_field,
)
from tests.testbed.converted import head


def heads(label: str = "notumor", count: int = 6) -> torch.Tensor:
    generator = np.random.default_rng(0)
    return torch.stack([torch.from_numpy(head(label, generator))[None].float() / 255 for _ in range(count)])


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augment_keeps_range_and_repeats_with_its_seed() -> None:
    images = heads()
    first, again = (augment(images, Augmentation(), seeded())[0] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(images, Augmentation(), seeded(2))[0])
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert first.isfinite().all()


def test_nothing_changes_when_every_strength_is_zero() -> None:
    images = heads()
    still = Augmentation(
        flip=0, rotate_degrees=0, scale=0, shift=0, gamma=0, bias_field=0, invert=0, remap=0, noise=0, blur=0,
        low_resolution=0,
    )  # fmt: skip
    changed, other_contrast = augment(images, still, seeded())
    assert not other_contrast.any()
    correlation = torch.corrcoef(torch.stack([images.flatten(), changed.flatten()]))[0, 1]
    assert correlation > 0.9  # only a slight aspect and brightness remain


def test_inversion_keeps_the_air_black() -> None:
    images = heads()
    settings = Augmentation(invert=1, remap=0, gamma=0, bias_field=0, noise=0)
    inverted, other_contrast = augment(images, settings, seeded())
    assert other_contrast.all()
    assert inverted[:, :, :4, :4].max() < 0.05


def test_places_are_on_tissue() -> None:
    images = heads(count=32)
    places = points_in_brain(images, seeded())
    at = (places * images.shape[-1]).long()
    assert (images[torch.arange(32), 0, at[:, 1], at[:, 0]] > 0.1).all()


def test_paste_changes_the_head_around_the_place_only() -> None:
    images, donors = heads(), heads("glioma")
    boxes = torch.tensor([[0.675, 0.55, 0.16, 0.16]]).repeat(6, 1)
    places = torch.full((6, 2), 0.5)
    pasted, _ = paste(images, donors, boxes, places, seeded())
    difference = (pasted - images).abs()
    assert (difference[:, :, 40:56, 40:56].mean(dim=(1, 2, 3)) > 0.02).all()
    assert difference[:, :, :20].max() < 0.05


def test_simulated_lesions_change_every_head() -> None:
    images = heads(count=16)
    changed, _ = simulate_lesions(images, torch.full((16, 2), 0.5), seeded())
    assert ((changed - images).abs().amax(dim=(1, 2, 3)) > 0.1).all()
    assert changed[:, :, :3, :3].max() < 0.05


@pytest.mark.parametrize(("cells", "size"), [(3, 160), (24, 97)])
def test_smooth_fields_are_bicubic_interpolations(cells: int, size: int) -> None:
    coarse = torch.randn(5, 1, cells, cells, generator=seeded())
    expected = functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True)
    torch.testing.assert_close(smooth_field(5, size, cells, seeded()), expected)


@pytest.mark.parametrize("side", [3, 5, 15])
def test_means_of_boxes_are_those_of_pooling(side: int) -> None:
    expected = functional.avg_pool2d(heads(), side, stride=1, padding=side // 2)
    torch.testing.assert_close(box_mean(heads(), side), expected)


def test_noise_is_normal_and_each_pictures_own() -> None:
    noise = random_noise(16, 96, seeded())
    assert noise.shape == (16, 1, 96, 96)
    assert noise.mean().abs() < 0.01
    assert (noise.std() - 1).abs() < 0.01
    between = torch.corrcoef(noise.flatten(1)) - torch.eye(16)
    assert between.abs().max() < 0.06
    assert not torch.equal(noise, random_noise(16, 96, seeded(2)))


@pytest.mark.parametrize(("flip", "direction"), [(0, 1), (1, -1)])
def test_without_a_turn_the_axes_stay_apart(flip: float, direction: int) -> None:
    ramp = torch.linspace(0.2, 1, 64).expand(4, 1, 64, 64)
    placed = random_affine(ramp, Augmentation(rotate_degrees=0, flip=flip), seeded())[:, :, 20:44, 20:44]
    torch.testing.assert_close(placed, placed[:, :, :1].expand_as(placed))
    assert (direction * placed.diff(dim=3) > 0).all()


def test_a_turn_keeps_areas() -> None:
    line = torch.linspace(0.2, 1, 64)
    ramps = torch.stack([line.expand(64, 64), line[:, None].expand(64, 64)])[None].expand(8, 2, 64, 64)
    settings = Augmentation(rotate_degrees=45, flip=0, scale=0, shift=0)
    middle = random_affine(ramps, settings, seeded())[:, :, 24:40, 24:40] / (line[1] - line[0])
    by_x, by_y = middle.diff(dim=3).mean(dim=(2, 3)), middle.diff(dim=2).mean(dim=(2, 3))
    assert by_y[:, 0].abs().max() > 0.3  # turned
    torch.testing.assert_close(by_y[:, 0], -by_x[:, 1])
    torch.testing.assert_close(by_x[:, 0] * by_y[:, 1] - by_x[:, 1] * by_y[:, 0], torch.ones(8))
