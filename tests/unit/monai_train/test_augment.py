"""Random transforms keep range and background, depend on their generator alone, and put lesions where they say."""

from __future__ import annotations

import numpy as np
import torch

from monai_train.augment import augment, paste, places_in_brain, simulate_lesions
from monai_train.config import Augmentation
from monai_train.mirror import mirrored
from tests.testbed.converted import head


def heads(label: str = "notumor", count: int = 6) -> torch.Tensor:
    generator = np.random.default_rng(0)
    return torch.stack([torch.from_numpy(head(label, generator))[None].float() / 255 for _ in range(count)])


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augment_keeps_range_and_repeats_with_its_seed() -> None:
    images = heads()
    first, again = (augment(images, Augmentation(), seeded()) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(images, Augmentation(), seeded(2)))
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
    changed = augment(images, still, seeded())
    correlation = torch.corrcoef(torch.stack([images.flatten(), changed.flatten()]))[0, 1]
    assert correlation > 0.9  # only a slight aspect and brightness remain


def test_inversion_keeps_the_air_black() -> None:
    images = heads()
    settings = Augmentation(invert=1, remap=0, gamma=0, bias_field=0, noise=0)
    inverted = augment(images, settings, seeded())
    assert inverted[:, :, :4, :4].max() < 0.05


def test_places_are_on_tissue() -> None:
    images = heads(count=32)
    places = places_in_brain(images, seeded())
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


def test_mirror_removes_and_doubles_the_tumour() -> None:
    pixels = (heads("glioma", 2) * 255).to(torch.uint8)
    boxes = torch.tensor([[0.675, 0.55, 0.17, 0.17], [float("nan")] * 4])
    made = mirrored(pixels, boxes)
    assert made.index.tolist() == [0]
    y, x, other = 52, 64, 31
    assert pixels[0, 0, y, x] > 200
    assert made.removed[0, 0, y, x] < 160
    assert made.doubled[0, 0, y, x] > 200
    assert made.doubled[0, 0, y, other] > 200


def test_a_tumour_on_the_midline_has_no_mirror() -> None:
    pixels = (heads("pituitary", 1) * 255).to(torch.uint8)
    made = mirrored(pixels, torch.tensor([[0.5, 0.725, 0.1, 0.1]]))
    assert len(made.index) == 0
