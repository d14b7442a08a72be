"""Batches hold what the configuration asks for: each recipe with its class, classes and patients in balance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from monai_train.config import BatchShares, TrainConfig
from monai_train.data.dataset import Pictures, load_pictures, read_preprocessing
from monai_train.data.labels import UNLABELLED
from monai_train.data.manifest import REGIONS, SEQUENCES, read_manifest
from monai_train.training.masks import Masks
from monai_train.training.sampling import make_sampler
from tests.testbed.converted import CLASSES
from tests.unit.monai_train.conftest import TINY
from worker.errors import StartError


def test_marks_follow_the_picture(tiny_data: Path) -> None:
    rows = read_manifest(tiny_data)
    pictures = load_pictures(tiny_data, rows, read_preprocessing())
    even = BatchShares.model_validate(dict.fromkeys(BatchShares.model_fields, 1))
    config = TINY.model_copy(update={"shares": even, "map_loss": 0.1})
    batch = make_sampler(pictures, range(len(rows)), config).batch(64, torch.Generator().manual_seed(0))
    assert batch.tumours.shape == batch.images.shape
    marked = batch.tumours.sum(dim=(1, 2, 3)) > 0
    assert not marked[batch.labels == CLASSES.no_tumour].any()
    assert marked[batch.labels == CLASSES.any_tumour].float().mean() > 0.8  # a few are moved out of the picture


def test_empty_class_is_refused(tiny_data: Path) -> None:
    rows = read_manifest(tiny_data)
    pictures = load_pictures(tiny_data, rows, read_preprocessing())
    only = [i for i, row in enumerate(rows) if row.label == "glioma"]
    with pytest.raises(StartError, match="class meningioma has 0"):
        make_sampler(pictures, only, TINY)


def test_every_recipe_makes_pictures_of_its_class(tiny_data: Path) -> None:
    rows = read_manifest(tiny_data)
    pictures = load_pictures(tiny_data, rows, read_preprocessing())
    chosen = [i for i, row in enumerate(rows) if row.dataset == "main"]
    config = TrainConfig(external=("outside",))
    sampler = make_sampler(pictures, chosen, config)
    assert len(sampler.mirrors.index) > 0
    images, labels, *_ = sampler.batch(64, torch.Generator().manual_seed(0))
    assert images.shape == (64, 1, 160, 160)
    assert set(labels.tolist()) == {0, 1, 2, 3, CLASSES.any_tumour}
    assert images.min() >= 0
    assert images.max() <= 1


def test_one_image_of_a_class_is_too_few(tiny_data: Path) -> None:
    rows = read_manifest(tiny_data)
    pictures = load_pictures(tiny_data, rows, read_preprocessing())
    gliomas = [i for i, row in enumerate(rows) if row.label == "glioma"]
    chosen = [gliomas[0], *(i for i, row in enumerate(rows) if row.label in ("meningioma", "pituitary", "notumor"))]
    with pytest.raises(StartError, match="class glioma has 1 training picture; 2 are needed"):
        make_sampler(pictures, chosen, TINY)


def test_sampling_is_balanced_as_it_is_told(tiny_data: Path) -> None:
    rows = read_manifest(tiny_data)
    pictures = load_pictures(tiny_data, rows, read_preprocessing())
    gliomas = [i for i, row in enumerate(rows) if row.label == "glioma" and row.dataset == "main"]
    others = [i for i, row in enumerate(rows) if row.label != "glioma" and row.dataset == "main"]
    chosen = gliomas[:4] + others  # two patients with a glioma, 14 of each other class; two pictures a patient
    shares = {}
    for sampling in ("patients", "classes", "pictures"):
        config = TINY.model_copy(update={"sampling": sampling})
        sampler = make_sampler(pictures, chosen, config)
        of_class = torch.stack([sampler.weights[sampler.pictures.labels == label].sum() for label in range(4)])
        shares[sampling] = (of_class / of_class.sum()).tolist()
    assert shares["patients"] == shares["classes"] == pytest.approx([0.25] * 4)
    assert shares["pictures"] == pytest.approx([4 / 88, 28 / 88, 28 / 88, 28 / 88])


def test_patients_with_many_pictures_count_less_a_picture(tiny_data: Path) -> None:
    rows = read_manifest(tiny_data)
    pictures = load_pictures(tiny_data, rows, read_preprocessing())
    inside = [i for i, row in enumerate(rows) if row.dataset == "main"]
    chosen = [inside[0], *inside[2:]]  # the first patient has one picture, all others two
    weights = make_sampler(pictures, chosen, TINY).weights
    assert float(weights[0] / weights[1]) == pytest.approx(2**0.5)
    even = make_sampler(pictures, chosen, TINY.model_copy(update={"sampling": "classes"})).weights
    assert float(even[0]) == pytest.approx(float(even[1]))


def test_batches_repeat_with_their_generator(tiny_data: Path) -> None:
    rows = read_manifest(tiny_data)
    sampler = make_sampler(load_pictures(tiny_data, rows, read_preprocessing()), range(len(rows)), TINY)
    first, again, other = (sampler.batch(8, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, other.images)
    assert not first.tumours.any()  # without map_loss nothing is marked


WITH_UNLABELLED = TINY.shares.model_copy(update={"unlabelled": 1.0})
STRATA = TINY.model_copy(update={"sampling": "strata", "sequence_loss": 0.3, "region_loss": 0.3})


def _known_pictures(folder: Path) -> Pictures:
    """The tiny pictures, of which the first slices show FLAIR and the last T1, with wrists that have no class."""
    rows = read_manifest(folder)
    pictures = load_pictures(folder, rows, read_preprocessing())
    known = [
        replace(row, sequence="FLAIR" if i % 2 else "T1", region="brain", slice_number=1 + i % 2, slice_count=2)
        for i, row in enumerate(pictures.rows)
    ]
    wrist = [replace(known[0], label="", region="other", sequence="", picture_group=f"w{k}") for k in range(4)]
    chosen = [*range(len(known)), *(0 for _ in wrist)]
    labels = torch.cat([pictures.labels, torch.full((len(wrist),), UNLABELLED)])
    return replace(pictures.select(chosen), rows=(*known, *wrist), labels=labels)


def test_pictures_without_a_class_are_drawn_only_where_asked(tiny_data: Path) -> None:
    pictures = _known_pictures(tiny_data)
    every = range(len(pictures.rows))
    assert (make_sampler(pictures, every, STRATA).batch(64, torch.Generator()).labels != UNLABELLED).all()
    asked = STRATA.model_copy(update={"shares": STRATA.shares.model_copy(update={"unlabelled": 1.0})})
    batch = make_sampler(pictures, every, asked).batch(128, torch.Generator().manual_seed(1))
    without = batch.labels == UNLABELLED
    assert without.any()
    assert set(batch.regions[without].tolist()) == {REGIONS.index("other")}
    assert set(batch.regions[~without].tolist()) == {REGIONS.index("brain")}


@pytest.mark.parametrize("levels", [2, 1])
def test_strata_are_drawn_by_the_root_of_their_patients_and_levels_equally(tiny_data: Path, levels: int) -> None:
    pictures = _known_pictures(tiny_data)
    rows = [replace(row, sequence="T1" if row.label == "notumor" else row.sequence) for row in pictures.rows]
    # Most slices are the first of two, so that a picture of the second is rare unless levels are equal.
    rows = [replace(row, slice_number=2 if i % 5 == 0 else 1) for i, row in enumerate(rows)]
    config = STRATA.model_copy(update={"shares": WITH_UNLABELLED, "sampling_levels": levels})
    weights = make_sampler(replace(pictures, rows=tuple(rows)), range(len(rows)), config).weights
    strata: dict[tuple[str, ...], dict[int | None, float]] = {}
    patients: dict[tuple[str, ...], set[str]] = {}
    for row, weight in zip(rows, weights.tolist(), strict=True):
        key = (row.label or "region other", row.dataset, row.sequence)
        strata.setdefault(key, {}).setdefault(row.slice_number, 0.0)
        strata[key][row.slice_number] += weight
        patients.setdefault(key, set()).add(row.patient_group)
    assert len(strata) > 4
    for key, of_level in strata.items():
        assert sum(of_level.values()) == pytest.approx(len(patients[key]) ** 0.5, rel=1e-4)
    both = [of_level for of_level in strata.values() if len(of_level) == 2]
    assert both
    assert all(own[1] == pytest.approx(own[2], rel=1e-4) for own in both) is (levels == 2)


def test_a_sequence_is_unknown_once_the_contrast_is_changed(tiny_data: Path) -> None:
    pictures = _known_pictures(tiny_data)
    changed = STRATA.model_copy(update={"augmentation": STRATA.augmentation.model_copy(update={"invert": 1.0})})
    same, inverted = (
        make_sampler(pictures, range(len(pictures.rows)), config).batch(32, torch.Generator().manual_seed(1))
        for config in (STRATA, changed)
    )
    assert set(same.sequences.tolist()) == {SEQUENCES.index("T1"), SEQUENCES.index("FLAIR")}
    assert set(inverted.sequences.tolist()) == {UNLABELLED}


def test_a_masked_lesion_comes_with_its_kind_into_a_head_of_its_sequence(tiny_data: Path) -> None:
    pictures = _known_pictures(tiny_data)
    gliomas = [i for i, row in enumerate(pictures.rows) if row.label == "glioma" and row.sequence == "FLAIR"]
    size = pictures.pixels.shape[-1]
    pixels = torch.zeros((len(gliomas), 1, size, size), dtype=torch.uint8)
    pixels[:, :, size // 2 : size * 5 // 8, size // 2 : size * 5 // 8] = 255
    masks = Masks(torch.tensor(gliomas), pixels)
    for share, labels in (("masked_lesion", {"glioma", "notumor"}), ("masked_tissue", {"notumor"})):
        shares = BatchShares.model_validate(dict.fromkeys(BatchShares.model_fields, 0) | {share: 1})
        config = STRATA.model_copy(update={"shares": shares})
        batch = make_sampler(pictures, range(len(pictures.rows)), config, masks=masks).batch(
            32, torch.Generator().manual_seed(1)
        )
        assert {pictures.classes.names[label] for label in batch.labels.tolist()} <= labels
        assert set(batch.sequences.tolist()) == {SEQUENCES.index("FLAIR")}
    assert len(masks.select([gliomas[0]]).index) == 1
