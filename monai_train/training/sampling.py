"""Sampling of training batches: which pictures are drawn, and which synthetic images are made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from monai_train.config import TrainConfig
from monai_train.data.dataset import Pictures
from monai_train.data.manifest import ManifestRow
from monai_train.training.augment import augment, paste, points_in_brain, simulate_lesions
from monai_train.training.mirror import Mirrors, box_mask, make_mirrors
from worker.errors import StartError

_MINIMUM = 2  # pictures per class


class Batch(NamedTuple):
    """images float32 [n, 1, s, s] in [0, 1]; labels int64 [n], some of them `any_tumour`.

    `tumours` float32 [n, 1, s, s] is 1 on the tumour; all 0 for a picture without a marked tumour, and for every
    picture if the configuration has no `map_loss`.
    """

    images: torch.Tensor
    labels: torch.Tensor
    tumours: torch.Tensor


@dataclass(frozen=True, eq=False, slots=True)
class BatchSampler:
    """Draws whole batches from the training pictures."""

    pictures: Pictures
    mirrors: Mirrors
    weights: torch.Tensor  # [n], relative probability of being drawn
    config: TrainConfig
    healthy: torch.Tensor  # uint8 [m, 1, s, s], m may be 0

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        """Draw and augment a batch of `size` pictures."""
        recipes = list(self.config.shares.model_dump().items())
        shares = torch.tensor([self._possible(name) * share for name, share in recipes])
        drawn = torch.multinomial(shares, size, replacement=True, generator=generator).bincount(minlength=len(recipes))
        parts = [
            self._make(name, int(count), generator) for (name, _), count in zip(recipes, drawn, strict=True) if count
        ]
        # The masks of the tumours are needed, and transformed along, for `map_loss` only.
        marked = self.config.map_loss > 0
        channels = [torch.cat([part.images, part.tumours], dim=1) if marked else part.images for part in parts]
        changed = augment(torch.cat(channels), self.config.augmentation, generator)
        images, tumours = changed[:, :1], changed[:, 1:]
        labels = torch.cat([part.labels for part in parts])
        return Batch(images, labels, tumours if marked else torch.zeros_like(images))

    def _possible(self, recipe: str) -> float:
        if recipe in ("mirrored_tumour", "tumour_removed"):
            return float(len(self.mirrors.index) > 0)
        if recipe == "pasted_lesion":
            return float(bool(self.pictures.boxes.isfinite().any()))
        return 1.0

    def _draw(self, allowed: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
        return torch.multinomial(self.weights * allowed, count, replacement=True, generator=generator)

    def _images(self, index: torch.Tensor) -> torch.Tensor:
        return self.pictures.pixels[index].float() / 255

    def _heads(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Heads without a tumour, of every contrast; a third of them are T1c with the tumour removed."""
        heads = self._without_tumour(count, generator)
        if len(self.mirrors.index):
            removed = torch.randint(len(self.mirrors.index), (count,), generator=generator)
            swapped = torch.rand(count, generator=generator) < 1 / 3
            heads[swapped] = self.mirrors.removed[removed[swapped]].float() / 255
        return heads

    def _without_tumour(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Real heads without a tumour: pictures of that class and, if given, slices of the healthy volume."""
        heads = self._images(self._draw(self.pictures.labels == self.pictures.classes.no_tumour, count, generator))
        if len(self.healthy):
            chosen = torch.randint(len(self.healthy), (count,), generator=generator)
            swapped = torch.rand(count, generator=generator) < self.config.healthy_share
            heads[swapped] = self.healthy[chosen[swapped]].float() / 255
        return heads

    def _make(self, recipe: str, count: int, generator: torch.Generator) -> Batch:
        labels, classes = self.pictures.labels, self.pictures.classes
        without, unknown = torch.full((count,), classes.no_tumour), torch.full((count,), classes.any_tumour)
        if recipe == "tumour":
            index = self._draw(labels != classes.no_tumour, count, generator)
            images = self._images(index)
            return Batch(images, labels[index], box_mask(self.pictures.boxes[index], images.shape[-1], 1).float())
        if recipe == "no_tumour":
            return _unmarked(self._without_tumour(count, generator), without)
        if recipe in ("mirrored_tumour", "tumour_removed"):
            chosen = torch.multinomial(self.weights[self.mirrors.index], count, replacement=True, generator=generator)
            if recipe == "tumour_removed":
                return _unmarked(self.mirrors.removed[chosen].float() / 255, without)
            return _unmarked(self.mirrors.doubled[chosen].float() / 255, labels[self.mirrors.index[chosen]])
        heads = self._heads(count, generator)
        points = points_in_brain(heads, generator)
        if recipe == "simulated_lesion":
            images, tumours = simulate_lesions(heads, points, generator)
            return Batch(images, unknown, tumours)
        if recipe == "pasted_lesion":
            index = self._draw(self.pictures.boxes.isfinite().all(dim=1), count, generator)
            images, tumours = paste(heads, self._images(index), self.pictures.boxes[index], points, generator)
            return Batch(images, unknown, tumours)
        donors = self._heads(count, generator)
        extent = 0.08 + 0.14 * torch.rand(count, 2, generator=generator)
        boxes = torch.cat([points_in_brain(donors, generator), extent], dim=1)
        return _unmarked(paste(heads, donors, boxes, points, generator)[0], without)


def _unmarked(images: torch.Tensor, labels: torch.Tensor) -> Batch:
    return Batch(images, labels, torch.zeros_like(images))


def make_sampler(
    pictures: Pictures,
    chosen: Sequence[int],
    config: TrainConfig,
    healthy: torch.Tensor | None = None,
) -> BatchSampler:
    """Make the sampler over the chosen pictures and the slices of a healthy volume.

    Raises StartError for a class with fewer than two pictures.
    """
    usable = [i for i in chosen if pictures.rows[i].label and not pictures.rows[i].in_conflict]
    training = pictures.select(usable)
    held = Counter(training.labels.tolist())
    for index, name in enumerate(pictures.classes.names):
        if held[index] < _MINIMUM:
            raise StartError("empty-class", f"class {name} has {held[index]} training pictures; {_MINIMUM} are needed")
    if healthy is None:
        healthy = torch.empty((0, *training.pixels.shape[1:]), dtype=torch.uint8)
    return BatchSampler(
        training, make_mirrors(training.pixels, training.boxes), _weights(training, config.sampling), config, healthy
    )


def _weights(pictures: Pictures, sampling: str) -> torch.Tensor:
    """Relative probability of each picture among those that a recipe allows.

    `patients`: classes are equally likely; within a class, a patient is weighted by the square root of their number of
    pictures, and copies share the weight of their picture. `classes`: classes are equally likely, and so are the files
    of a class. `pictures`: all files are equally likely.
    """
    rows = pictures.rows
    if sampling == "pictures":
        return torch.ones(len(rows))
    weights = torch.ones(len(rows)) if sampling == "classes" else _patient_weights(rows)
    for label in set(pictures.labels.tolist()):
        of_label = pictures.labels == label
        weights[of_label] /= weights[of_label].sum()
    return weights


def _patient_weights(rows: Sequence[ManifestRow]) -> torch.Tensor:
    copies = Counter((row.picture_group, row.label) for row in rows)
    patients = {key: set[str]() for key in {(row.patient_group, row.label) for row in rows}}
    for row in rows:
        patients[row.patient_group, row.label].add(row.picture_group)
    return torch.tensor(
        [len(patients[row.patient_group, row.label]) ** -0.5 / copies[row.picture_group, row.label] for row in rows]
    )
