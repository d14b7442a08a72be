"""Batches hold what the configuration asks for: each recipe with its class, classes and patients in balance."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monai_train.config import BatchShares, TrainConfig
from monai_train.data.dataset import load_pictures, read_preprocessing
from monai_train.data.manifest import read_manifest
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
    images, labels, _ = sampler.batch(64, torch.Generator().manual_seed(0))
    assert images.shape == (64, 1, 160, 160)
    assert set(labels.tolist()) == {0, 1, 2, 3, CLASSES.any_tumour}
    assert images.min() >= 0
    assert images.max() <= 1


def test_one_image_of_a_class_is_too_few(tiny_data: Path) -> None:
    rows = read_manifest(tiny_data)
    pictures = load_pictures(tiny_data, rows, read_preprocessing())
    gliomas = [i for i, row in enumerate(rows) if row.label == "glioma"]
    chosen = [gliomas[0], *(i for i, row in enumerate(rows) if row.label in ("meningioma", "pituitary", "notumor"))]
    with pytest.raises(StartError, match="class glioma has 1 training pictures; 2 are needed"):
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
