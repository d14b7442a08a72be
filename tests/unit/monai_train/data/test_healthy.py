"""A healthy volume becomes heads in three planes; what is not one axial series is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydicom import dcmread

from monai_train.config import TrainConfig
from monai_train.data.dataset import load_pictures, read_preprocessing
from monai_train.data.healthy import healthy_slices
from monai_train.data.manifest import read_manifest
from monai_train.training.sampling import make_sampler
from tests.testbed.converted import CLASSES
from tests.testbed.tiny_bundle import write_head
from worker.errors import StartError


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    for index in range(16):
        write_head(tmp_path / f"volume/{index}.dcm", index)
    return tmp_path / "volume"


def test_three_planes_of_one_series(volume: Path) -> None:
    slices, digest = healthy_slices(volume, read_preprocessing())
    again = healthy_slices(volume, read_preprocessing())
    assert len(slices) > 16  # the native ones and others
    assert slices.dtype == torch.uint8
    assert slices.shape[1:] == (1, 160, 160)
    assert torch.equal(slices, again[0])
    assert digest == again[1]


def test_no_axial_series_is_refused(volume: Path) -> None:
    for path in volume.iterdir():
        ds = dcmread(path)
        ds.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
        x, y, z = ds.ImagePositionPatient
        ds.ImagePositionPatient = [x, z, y]
        ds.save_as(path)
    with pytest.raises(StartError, match="axial"):
        healthy_slices(volume, read_preprocessing())
    with pytest.raises(StartError, match="healthy volume"):
        healthy_slices(volume / "absent", read_preprocessing())


def test_healthy_heads_are_drawn_as_heads_without_a_tumour(volume: Path, tiny_data: Path) -> None:
    pictures = load_pictures(tiny_data, read_manifest(tiny_data), read_preprocessing())
    chosen = [i for i, row in enumerate(pictures.rows) if row.dataset == "main"]
    marked = torch.full((1, 1, 160, 160), 200, dtype=torch.uint8)
    config = TrainConfig(
        healthy_share=1.0,
        shares={"tumour": 0, "mirrored_tumour": 0, "pasted_lesion": 0, "simulated_lesion": 0, "no_tumour": 1,
                "tumour_removed": 0, "pasted_tissue": 0},
        augmentation={"remap": 0, "invert": 0, "noise": 0, "bias_field": 0, "gamma": 0},
    )  # fmt: skip
    sampler = make_sampler(pictures, chosen, config, marked)
    images, labels, *_ = sampler.batch(8, torch.Generator().manual_seed(0))
    assert set(labels.tolist()) == {CLASSES.no_tumour}
    middle = images[:, 0, 70:90, 70:90]
    assert (middle.amax(dim=(1, 2)) - middle.amin(dim=(1, 2)) < 0.01).all()  # the flat picture, at some brightness
