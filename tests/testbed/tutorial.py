"""A classifier made as MONAI's 2-D classification tutorial makes it, on synthetic pictures, in a few seconds.

tutorials/2d_classification/mednist_tutorial: LoadImage, EnsureChannelFirst, ScaleIntensity, a DenseNet, the weights
saved by torch.save(model.state_dict()); DenseNet121 itself would take minutes. What a picture shows depends on its
side, so a picture that is turned or transposed on the way is classified otherwise.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai.transforms
import numpy as np
import numpy.typing as npt
import pytest
import torch
from monai.networks.nets import DenseNet
from PIL import Image

from tests.testbed.instances import encoded, mr_instance
from tests.testbed.made_once import copied

KINDS = ("left", "top", "none")
NETWORK = {"init_features": 16, "growth_rate": 8, "block_config": (2, 2, 2, 2)}
SIZE = 64
CHECKPOINT = "best_metric_model.pth"
TRANSFORMS = [("LoadImage", {"image_only": True}), ("EnsureChannelFirst", {}), ("ScaleIntensity", {})]
_PLACES = {"left": (0.5, 0.27), "top": (0.27, 0.5)}  # of the bright spot: row, column

MODEL = """
name = "spot-finder"
version = "1.2.0"
limits = "Synthetic pictures, for tests only."
network_arguments = {init_features = 16, growth_rate = 8, block_config = [2, 2, 2, 2]}

[[class]]
name = "left"
title = "Spot on the left"
finding = {value = "52988006", scheme = "SCT", meaning = "Lesion"}
site = {value = "12738006", scheme = "SCT", meaning = "Brain"}

[[class]]
name = "top"
title = "Spot at the top"
finding = {value = "50960005", scheme = "SCT", meaning = "Hemorrhage"}
site = {value = "12738006", scheme = "SCT", meaning = "Brain"}

[[class]]
name = "none"
title = "No spot"
site = {value = "12738006", scheme = "SCT", meaning = "Brain"}

[[transform]]
name = "LoadImage"
image_only = true

[[transform]]
name = "EnsureChannelFirst"

[[transform]]
name = "ScaleIntensity"
"""


def picture(kind: str, generator: np.random.Generator, size: int = SIZE) -> npt.NDArray[np.uint8]:
    """A head [size, size] with a spot on its left, at its top, or none."""
    rows, columns = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
    head = np.hypot((rows - 0.5) / 0.46, (columns - 0.5) / 0.42) < 1
    grey = 90.0 * head + generator.normal(0, 6, head.shape)
    if kind in _PLACES:
        row, column = _PLACES[kind] + generator.normal(0, 0.02, 2)
        grey += 150 * (np.hypot(rows - row, columns - column) < generator.uniform(0.09, 0.13))
    return np.clip(grey, 0, 255).astype(np.uint8)


def write_pictures(folder: Path, count: int, seed: int = 0) -> list[tuple[Path, int]]:
    """PNG files, a folder a kind, as the tutorial finds them."""
    generator = np.random.default_rng(seed)
    files = []
    for index, kind in enumerate(KINDS):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            path = folder / kind / f"{number:03d}.png"
            Image.fromarray(picture(kind, generator)).save(path)
            files.append((path, index))
    return files


def network() -> Any:
    """The tutorial's network, untrained."""
    return DenseNet(spatial_dims=2, in_channels=1, out_channels=len(KINDS), **NETWORK)


def train(files: Sequence[tuple[Path, int]], steps: int = 30) -> torch.nn.Module:
    """The tutorial's network and training loop, with fewer and larger steps."""
    torch.manual_seed(0)
    images = _loaded([path for path, _ in files])
    labels = torch.tensor([label for _, label in files])
    model = network()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.5  # so that few steps are enough
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    loss_function = torch.nn.CrossEntropyLoss()
    model.train()
    for _ in range(steps):
        chosen = torch.randperm(len(files))[:24]
        optimizer.zero_grad()
        loss_function(model(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    trained: torch.nn.Module = model.eval()
    return trained


def predictions(model: torch.nn.Module, files: Sequence[Path]) -> npt.NDArray[np.float32]:
    """Probabilities [files, classes] by the tutorial's own loading."""
    with torch.inference_mode():
        return np.asarray(model(_loaded(files)).softmax(dim=1).numpy())


def _loaded(files: Sequence[Path]) -> torch.Tensor:
    """The tutorial's transforms of pictures: [files, 1, x, y]."""
    with warnings.catch_warnings(action="ignore"):  # MONAI's, about readers that are not installed
        load = monai.transforms.Compose([getattr(monai.transforms, name)(**args) for name, args in TRANSFORMS])
        images: torch.Tensor = torch.stack([load(str(path)) for path in files]).as_tensor()
    return images


def write_series(folder: Path, kind: str, count: int = 4, seed: int = 0, **changes: Any) -> list[Path]:
    """A series of MR images of a kind, of a patient of its own; the grey values are those of a scanner."""
    generator = np.random.default_rng([seed, KINDS.index(kind)])
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number in range(1, count + 1):
        pixels = picture(kind, generator).astype(np.uint16) * 9 + 30
        ds = mr_instance(number, f"{kind}-{seed}", **{"Rows": SIZE, "Columns": SIZE, **changes})
        ds.PixelData = pixels.tobytes()
        path = folder / f"{kind}-{seed}-{number}.dcm"
        path.write_bytes(encoded(ds))
        written.append(path)
    return written


def write_onnx(model: torch.nn.Module, path: Path, **arguments: Any) -> None:
    """Export by torch; its last step needs the package onnx for custom operators alone, of which there are none."""
    from torch.onnx._internal.torchscript_exporter import onnx_proto_utils

    with warnings.catch_warnings(action="ignore"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_proto_utils, "_add_onnxscript_fn", lambda written, _operators: written)
        torch.onnx.export(model, (torch.zeros(1, 1, SIZE, SIZE),), str(path), dynamo=False, **arguments)


@dataclass(frozen=True)
class Made:
    """A trained network and its files: the checkpoint, the description of the model, a folder of DICOM series."""

    network: torch.nn.Module
    checkpoint: Path
    model: Path
    dicom: Path


def make(folder: Path) -> Made:
    """Train, save as the tutorial does, and write three series of each kind."""
    copied("tutorial", folder, _make_files)
    model = network()
    model.load_state_dict(torch.load(folder / CHECKPOINT, weights_only=True))
    return Made(model.eval(), folder / CHECKPOINT, folder / "model.toml", folder / "dicom")


def _make_files(folder: Path) -> None:
    torch.save(train(write_pictures(folder / "pictures", 40)).state_dict(), folder / CHECKPOINT)
    (folder / "model.toml").write_text(MODEL)
    for kind in KINDS:
        for seed in range(3):
            write_series(folder / "dicom" / f"{kind}-{seed}", kind, seed=seed)
