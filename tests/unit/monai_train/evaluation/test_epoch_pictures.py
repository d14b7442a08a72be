"""The pictures of an epoch show what they should, whatever the validation part holds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from monai_train.data.dataset import Pictures, load_pictures, read_preprocessing
from monai_train.data.labels import UNLABELLED, Classes
from monai_train.data.manifest import read_manifest
from monai_train.data.patients import split_classes, split_roles
from monai_train.evaluation.epoch_pictures import epoch_pictures
from monai_train.training.checkpoint import BEST, read_checkpoint
from monai_train.training.sampling import Batch
from tests.unit.monai_train.conftest import TINY


def parts(tiny_data: Path, tiny_run: Path) -> tuple[torch.nn.Module, Batch, Pictures]:
    rows = read_manifest(tiny_data)
    classes = split_classes(rows, split_roles(rows, TINY.external, TINY.test_share, TINY.validation_share))
    pictures = load_pictures(tiny_data, rows, read_preprocessing(), classes=classes)
    images = pictures.pixels[:20].float() / 255
    unknown = torch.full((20,), UNLABELLED)
    return (
        read_checkpoint(tiny_run / BEST).classifier(),
        Batch(images, pictures.labels[:20], torch.zeros_like(images), unknown, unknown),
        pictures,
    )


def test_pictures_are_drawn_of_what_is_known(tiny_data: Path, tiny_run: Path) -> None:
    model, batch, pictures = parts(tiny_data, tiny_run)
    logits = torch.nn.functional.one_hot(pictures.labels.clamp(0, len(pictures.classes) - 1)).float()
    drawn = epoch_pictures(model, batch, pictures, logits)
    assert sorted(drawn) == ["training/samples", "validation/confusion", "validation/maps", "validation/roc"]
    sheet = np.asarray(Image.open(io.BytesIO(drawn["training/samples"])))
    tile = min(160, batch.images.shape[-1])
    scaled = Image.fromarray(batch.images[0, 0].mul(255).byte().numpy()).resize((tile, tile))
    assert np.array_equal(sheet[:tile, :tile], np.asarray(scaled))
    assert sheet.shape[1] == 8 * (tile + 4) - 4


def test_a_single_truth_has_no_roc_and_a_part_without_lesions_no_maps(tiny_data: Path, tiny_run: Path) -> None:
    model, batch, pictures = parts(tiny_data, tiny_run)
    classes: Classes = pictures.classes
    healthy = pictures.select((pictures.labels == classes.no_tumour).nonzero()[:, 0].tolist())
    drawn = epoch_pictures(model, batch, healthy, torch.zeros(len(healthy.rows), len(classes)))
    assert sorted(drawn) == ["training/samples", "validation/confusion"]
