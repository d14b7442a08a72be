"""Sampling of training batches: which pictures are drawn, and which synthetic images are made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from monai_train.config import TrainConfig
from monai_train.data.dataset import Pictures
from monai_train.data.labels import UNLABELLED
from monai_train.data.manifest import REGIONS, SEQUENCES, ManifestRow
from monai_train.training.augment import augment, paste, points_in_brain, simulate_lesions
from monai_train.training.masks import Masks
from monai_train.training.mirror import Mirrors, box_mask, make_mirrors
from monai_train.training.paste_masks import paste_masked
from worker.errors import StartError
from worker.wording import counted

_MINIMUM = 2  # pictures per class
_BRAIN = REGIONS.index("brain")


class Batch(NamedTuple):
    """images float32 [n, 1, s, s] in [0, 1]; labels int64 [n], some of them `any_tumour` or UNLABELLED.

    `sequences` and `regions` int64 [n] are indices of SEQUENCES and REGIONS, UNLABELLED where unknown or where the
    contrast was changed. `tumours` float32 [n, 1, s, s] is 1 on the tumour; all 0 for a picture without a marked
    tumour, and for every picture if the configuration has no `map_loss`.
    """

    images: torch.Tensor
    labels: torch.Tensor
    tumours: torch.Tensor
    sequences: torch.Tensor
    regions: torch.Tensor


@dataclass(frozen=True, eq=False, slots=True)
class BatchSampler:
    """Draws whole batches from the training pictures."""

    pictures: Pictures
    mirrors: Mirrors
    masks: Masks
    weights: torch.Tensor  # [n], relative probability of being drawn
    config: TrainConfig
    healthy: torch.Tensor  # uint8 [m, 1, s, s], m may be 0
    sequences: torch.Tensor  # int64 [n], and
    regions: torch.Tensor  # of the pictures, as in Batch

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
        changed, other_contrast = augment(torch.cat(channels), self.config.augmentation, generator)
        images, tumours = changed[:, :1], changed[:, 1:]
        labels, sequences, regions = (torch.cat([part[k] for part in parts]) for k in (1, 3, 4))
        sequences = sequences.masked_fill(other_contrast, UNLABELLED)
        return Batch(images, labels, tumours if marked else torch.zeros_like(images), sequences, regions)

    def _possible(self, recipe: str) -> float:
        if recipe in ("mirrored_tumour", "tumour_removed"):
            return float(len(self.mirrors.index) > 0)
        if recipe == "pasted_lesion":
            return float(bool(self.pictures.boxes.isfinite().any()))
        if recipe in ("masked_lesion", "masked_tissue"):
            return float(len(self.masks.index) > 0)
        if recipe == "unlabelled":
            return float(bool((self.pictures.labels == UNLABELLED).any()))
        return 1.0

    def _draw(self, allowed: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
        return torch.multinomial(self.weights * allowed, count, replacement=True, generator=generator)

    def _images(self, index: torch.Tensor) -> torch.Tensor:
        return self.pictures.pixels[index].float() / 255

    def _real(self, index: torch.Tensor) -> Batch:
        """The pictures at these positions as they are, with what is known of them."""
        images = self._images(index)
        tumours = box_mask(self.pictures.boxes[index], images.shape[-1], 1).float()
        return Batch(images, self.pictures.labels[index], tumours, self.sequences[index], self.regions[index])

    def _heads(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Heads without a tumour, of every contrast; a third of them are T1c with the tumour removed."""
        heads = self._without_tumour(count, generator).images
        if len(self.mirrors.index):
            removed = torch.randint(len(self.mirrors.index), (count,), generator=generator)
            swapped = torch.rand(count, generator=generator) < 1 / 3
            heads[swapped] = self.mirrors.removed[removed[swapped]].float() / 255
        return heads

    def _without_tumour(self, count: int, generator: torch.Generator) -> Batch:
        """Real heads without a tumour: pictures of that class and, if given, slices of the healthy volume."""
        drawn = self._real(self._draw(self.pictures.labels == self.pictures.classes.no_tumour, count, generator))
        if len(self.healthy):
            chosen = torch.randint(len(self.healthy), (count,), generator=generator)
            swapped = torch.rand(count, generator=generator) < self.config.healthy_share
            drawn.images[swapped] = self.healthy[chosen[swapped]].float() / 255
            for known in (drawn.sequences, drawn.regions):
                known[swapped] = UNLABELLED
        return drawn

    def _make(self, recipe: str, count: int, generator: torch.Generator) -> Batch:
        labels, classes = self.pictures.labels, self.pictures.classes
        without, unknown = torch.full((count,), classes.no_tumour), torch.full((count,), classes.any_tumour)
        if recipe == "tumour":
            return self._real(self._draw((labels != classes.no_tumour) & (labels != UNLABELLED), count, generator))
        if recipe == "unlabelled":
            return self._real(self._draw(labels == UNLABELLED, count, generator))
        if recipe == "no_tumour":
            return self._without_tumour(count, generator)
        if recipe in ("mirrored_tumour", "tumour_removed"):
            chosen = torch.multinomial(self.weights[self.mirrors.index], count, replacement=True, generator=generator)
            index = self.mirrors.index[chosen]
            if recipe == "tumour_removed":
                return _made(self.mirrors.removed[chosen].float() / 255, without, self.sequences[index])
            return _made(self.mirrors.doubled[chosen].float() / 255, labels[index], self.sequences[index])
        if recipe in ("masked_lesion", "masked_tissue"):
            return self._masked(recipe == "masked_lesion", count, generator)
        heads = self._heads(count, generator)
        points = points_in_brain(heads, generator)
        if recipe == "simulated_lesion":
            images, tumours = simulate_lesions(heads, points, generator)
            return _made(images, unknown)._replace(tumours=tumours)
        if recipe == "pasted_lesion":
            index = self._draw(self.pictures.boxes.isfinite().all(dim=1), count, generator)
            images, tumours = paste(heads, self._images(index), self.pictures.boxes[index], points, generator)
            return _made(images, unknown)._replace(tumours=tumours)
        donors = self._heads(count, generator)
        extent = 0.08 + 0.14 * torch.rand(count, 2, generator=generator)
        boxes = torch.cat([points_in_brain(donors, generator), extent], dim=1)
        return _made(paste(heads, donors, boxes, points, generator)[0], without)

    def _masked(self, lesion: bool, count: int, generator: torch.Generator) -> Batch:
        """Tumours by their masks, or tissue under the same masks, in heads of the same sequence without a tumour."""
        chosen = torch.multinomial(self.weights[self.masks.index], count, replacement=True, generator=generator)
        donors, masks = self.masks.index[chosen], self.masks.pixels[chosen].float() / 255
        free = self.pictures.labels == self.pictures.classes.no_tumour
        heads, others = torch.empty_like(donors), torch.empty_like(donors)
        for sequence in set(self.sequences[donors].tolist()):
            of_sequence = self.sequences[donors] == sequence
            allowed = free & (self.sequences == sequence)
            allowed = allowed if allowed.any() else free
            for target in (heads, others):
                target[of_sequence] = self._draw(allowed, int(of_sequence.sum()), generator)
        content = self._images(donors if lesion else others)
        images, tumours = paste_masked(self._images(heads), content, masks, generator)
        landed = tumours.flatten(1).any(dim=1) & lesion
        labels = torch.where(landed, self.pictures.labels[donors], torch.tensor(self.pictures.classes.no_tumour))
        return Batch(images, labels, tumours * lesion, self.sequences[heads], self.regions[heads])


def _made(images: torch.Tensor, labels: torch.Tensor, sequences: torch.Tensor | None = None) -> Batch:
    """Synthetic pictures of brain without a marked tumour, of unknown sequence unless given."""
    unknown = torch.full_like(labels, UNLABELLED)
    regions = torch.full_like(labels, _BRAIN)
    return Batch(images, labels, torch.zeros_like(images), unknown if sequences is None else sequences, regions)


def make_sampler(
    pictures: Pictures,
    chosen: Sequence[int],
    config: TrainConfig,
    healthy: torch.Tensor | None = None,
    masks: Masks | None = None,
) -> BatchSampler:
    """Make the sampler over the chosen pictures, the masks of all pictures and the slices of a healthy volume.

    Pictures without a label are used only if the configuration's shares ask for them. Raises StartError for a class
    with fewer than two pictures.
    """
    unlabelled = config.shares.unlabelled > 0
    usable = [i for i in chosen if (unlabelled or pictures.rows[i].label) and not pictures.rows[i].in_conflict]
    training = pictures.select(usable)
    held = Counter(training.labels.tolist())
    for index, name in enumerate(pictures.classes.names):
        if held[index] < _MINIMUM:
            raise StartError(
                "empty-class", f"class {name} has {counted(held[index], 'training picture')}; {_MINIMUM} are needed"
            )
    if healthy is None:
        healthy = torch.empty((0, *training.pixels.shape[1:]), dtype=torch.uint8)
    return BatchSampler(
        pictures=training,
        mirrors=make_mirrors(training.pixels, training.boxes),
        masks=masks.select(usable) if masks is not None else Masks.none(training.pixels.shape[-1]),
        weights=_weights(training, config.sampling, config.sampling_levels),
        config=config,
        healthy=healthy,
        sequences=_known([row.sequence for row in training.rows], SEQUENCES),
        regions=_known([row.region for row in training.rows], REGIONS),
    )


def _known(values: Sequence[str], names: Sequence[str]) -> torch.Tensor:
    return torch.tensor([names.index(value) if value in names else UNLABELLED for value in values])


def _weights(pictures: Pictures, sampling: str, levels: int) -> torch.Tensor:
    """Relative probability of each picture among those that a recipe allows.

    `patients`: classes are equally likely; within a class, a patient is weighted by the square root of their number of
    pictures, and copies share the weight of their picture. `strata`: class, data set and sequence are drawn together,
    by the square root of their number of patients; then one of `levels` equal parts of the series, from its first slice
    to its last, so that the level does not tell the class; then a picture as for `patients`. `classes`:
    classes are equally likely, and so are the files of a class. `pictures`: all files are equally likely.
    """
    rows = pictures.rows
    if sampling == "pictures":
        return torch.ones(len(rows))
    weights = torch.ones(len(rows)) if sampling == "classes" else _patient_weights(rows)
    # What has no class is drawn to learn the region.
    classes = [row.label or f"region {row.region}" for row in rows]
    if sampling != "strata":
        _scale(weights, classes)
        return weights
    strata = [(name, row.dataset, row.sequence) for name, row in zip(classes, rows, strict=True)]
    _scale(weights, [(*stratum, _level(row, levels)) for stratum, row in zip(strata, rows, strict=True)])
    patients = Counter(stratum for stratum, _ in {(s, row.patient_group) for s, row in zip(strata, rows, strict=True)})
    _scale(weights, strata, {stratum: count**0.5 for stratum, count in patients.items()})
    return weights


def _scale(weights: torch.Tensor, groups: Sequence[Hashable], totals: Mapping[Any, float] | None = None) -> None:
    """Scale the weights, in place, so that those of a group have the sum that `totals` names, 1 without `totals`."""
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    for group, own in members.items():
        weights[own] /= weights[own].sum() / (totals[group] if totals else 1.0)


def _level(row: ManifestRow, levels: int) -> int | None:
    """In which of `levels` equal parts of its series a slice lies, from 0; None where it is not known."""
    if row.slice_number is None or not row.slice_count:
        return None
    return (row.slice_number - 1) * levels // row.slice_count


def _patient_weights(rows: Sequence[ManifestRow]) -> torch.Tensor:
    copies = Counter((row.picture_group, row.label) for row in rows)
    patients = {key: set[str]() for key in {(row.patient_group, row.label) for row in rows}}
    for row in rows:
        patients[row.patient_group, row.label].add(row.picture_group)
    return torch.tensor(
        [len(patients[row.patient_group, row.label]) ** -0.5 / copies[row.picture_group, row.label] for row in rows]
    )
