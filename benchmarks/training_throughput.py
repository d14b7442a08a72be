"""Training throughput against MONAI's tutorial pipeline, on the same network, in the same run.

    PYTHONPATH=. python benchmarks/training_throughput.py          # the default network at 160 pixels, 2 threads
    PYTHONPATH=. python benchmarks/training_throughput.py --network resnet18 --device cuda --rounds 9

Ours is `train_epoch` as `monai-train train` runs it: images as bytes in memory, assembled and augmented a batch at a
time, bfloat16, channels last. MONAI's is that of its classification and fast-training tutorials: CacheDataset over PNG
files, random transforms of the same kinds as ours on each image, ThreadDataLoader, float32. Both train the same network
definition with AdamW. They run in turn, each in its own process, because ours changes the allocator of its process; the
first round of both is not counted. Prints the medians with their range, the ratio of the rounds, and the share of time
outside the network (waiting for a batch). Exits 1 when the median ratio is below 3. The images are synthetic; on a
loaded machine the figures mean nothing.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import torch
from monai import transforms
from monai.data import CacheDataset, ThreadDataLoader
from PIL import Image
from torch import nn

from benchmarks.rows import Row, add_common, against, finish, plain
from monai_train.config import TrainConfig
from monai_train.data.dataset import Pictures
from monai_train.data.labels import NO_TUMOUR, Classes
from monai_train.data.manifest import ManifestRow
from monai_train.networks.registry import make_classifier
from monai_train.training.allocator import keep_freed_memory
from monai_train.training.sampling import Batch, BatchSampler, make_sampler
from monai_train.training.train import new_state, train_epoch

GOAL = 4.0
CLASSES = Classes.named(("glioma", "meningioma", "pituitary", NO_TUMOUR))


@dataclass(frozen=True, slots=True)
class Round:
    """Images per second of a round, and the share of its time spent waiting for a batch."""

    rate: float
    outside: float


def head(index: int, size: int) -> np.ndarray:
    """uint8 [size, size]: an ellipse with folds, and a bright disc for a class with a tumour."""
    generator = np.random.default_rng(index)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    inside = np.hypot(x / 0.75, y / 0.9) < 1
    image = inside * (90 + 30 * np.cos(8 * np.abs(x)) * np.cos(7 * y) + generator.normal(0, 6, inside.shape))
    if CLASSES.names[index % len(CLASSES)] != NO_TUMOUR:
        image[np.hypot(x - 0.35, y - 0.1) < 0.16] = 220
    return np.clip(image, 0, 255).astype(np.uint8)


def pictures_of(images: Sequence[np.ndarray]) -> Pictures:
    """As `load_pictures` returns them: a patient per image, with the box of the tumour."""
    labels = [index % len(CLASSES) for index in range(len(images))]
    side = images[0].shape[0]
    box = (0.675, 0.55, 0.16, 0.16)
    rows = tuple(
        ManifestRow(f"{i}.dcm", CLASSES.names[label], f"G{i}", f"P{i}", "made", f"{i:064x}", side, side, box, False)
        for i, label in enumerate(labels)
    )
    boxes = torch.tensor([box if label != CLASSES.no_tumour else (float("nan"),) * 4 for label in labels])
    return Pictures(rows, torch.from_numpy(np.stack(images))[:, None], torch.tensor(labels), boxes, CLASSES)


class Watched:
    """A sampler that measures the time of its batches."""

    def __init__(self, sampler: BatchSampler) -> None:
        self._sampler, self.pictures, self.seconds = sampler, sampler.pictures, 0.0

    def batch(self, size: int, generator: torch.Generator) -> Batch:
        start = time.perf_counter()
        batch = self._sampler.batch(size, generator)
        self.seconds += time.perf_counter() - start
        return batch


def ours(pictures: Pictures, config: TrainConfig) -> Callable[[], Round]:
    """A function that runs a round of our epoch."""
    keep_freed_memory()
    sampler = Watched(make_sampler(pictures, range(len(pictures.rows)), config))
    state = new_state(config, CLASSES)

    def run() -> Round:
        sampler.seconds, start = 0.0, time.perf_counter()
        train_epoch(state, sampler, config)
        return _round(config, time.perf_counter() - start, sampler.seconds)

    return run


def monai_transforms() -> transforms.Compose:
    """The tutorials' reading, then a random transform for each of ours, with our probabilities and ranges."""
    return transforms.Compose(
        [
            transforms.LoadImage(image_only=True, ensure_channel_first=True),
            transforms.ScaleIntensity(),
            transforms.RandFlip(prob=0.5, spatial_axis=0),
            transforms.RandAffine(
                prob=1.0, rotate_range=0.31, scale_range=(0.18, 0.18), translate_range=(10, 10), padding_mode="zeros"
            ),
            transforms.RandHistogramShift(prob=0.18),
            transforms.RandLambda(prob=0.12, func=lambda image: 1 - image),
            transforms.RandAdjustContrast(prob=1.0, gamma=(0.6, 1.65)),
            transforms.RandBiasField(prob=1.0, degree=2, coeff_range=(0.0, 0.2)),
            transforms.RandGaussianSmooth(prob=0.2),
            transforms.RandSimulateLowResolution(prob=0.15, zoom_range=(0.5, 0.5), upsample_mode="bilinear"),
            transforms.RandGaussianNoise(prob=1.0, std=0.02),
        ]
    )


class Labelled(torch.utils.data.Dataset):
    """The cached images with their labels."""

    def __init__(self, images: CacheDataset, labels: Sequence[int]) -> None:
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._images[index], self._labels[index]


def tutorial(files: Sequence[Path], labels: Sequence[int], config: TrainConfig, workers: int) -> Callable[[], Round]:
    """A function that runs a round of the tutorial pipeline, with as many images as ours."""
    cached = CacheDataset([str(file) for file in files], monai_transforms(), progress=False)
    count = config.samples_per_epoch // config.batch * config.batch
    drawn = torch.utils.data.RandomSampler(cached, replacement=True, num_samples=count)
    loader = ThreadDataLoader(Labelled(cached, labels), batch_size=config.batch, sampler=drawn, num_workers=workers)
    net = make_classifier(config.network, len(CLASSES)).net.to(config.device).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    criterion = nn.CrossEntropyLoss()

    def run() -> Round:
        start, waited, seen = time.perf_counter(), 0.0, 0
        batches = iter(loader)
        while True:
            requested = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - requested
            if batch is None:
                if seen != count:  # the loader's thread ends silently when a transform fails
                    raise RuntimeError(f"MONAI's loader gave {seen} of {count} images")
                return _round(config, time.perf_counter() - start, waited)
            optimizer.zero_grad()
            loss = criterion(net(batch[0].as_tensor().to(config.device)), batch[1].to(config.device))
            loss.backward()
            optimizer.step()
            loss.item()
            seen += len(batch[1])

    return run


_theirs: list[Callable[[], Round]] = []  # in the process of the tutorial pipeline: its round


def _make_theirs(files: Sequence[Path], labels: Sequence[int], config: TrainConfig, workers: int) -> None:
    torch.set_num_threads(config.threads)
    _theirs.append(tutorial(files, labels, config, workers))


def _run_theirs() -> Round:
    return _theirs[0]()


def _round(config: TrainConfig, seconds: float, waited: float) -> Round:
    count = config.samples_per_epoch // config.batch * config.batch
    return Round(count / seconds, waited / seconds)


def alone(pictures: Pictures, config: TrainConfig, network: str) -> Row:
    """The rate of another network in short rounds, without a comparison."""
    batch = min(config.batch, 16)
    run = ours(pictures, config.model_copy(update={"network": network, "batch": batch, "samples_per_epoch": 2 * batch}))
    rounds = [run() for _ in range(4)][1:]
    waited = f"{100 * median(measured.outside for measured in rounds):.0f} % of the time outside the network"
    return plain(f"training {network}", [measured.rate for measured in rounds], "images/s", waited)


def summary(name: str, rounds: Sequence[Round]) -> str:
    """A line for the terminal."""
    rates, shares = [measured.rate for measured in rounds], [measured.outside for measured in rounds]
    return (
        f"{name:6} {median(rates):8.1f} images/s ({min(rates):.1f}-{max(rates):.1f}), "
        f"{100 * median(shares):.0f} % of the time outside the network"
    )


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--network", default="resnet18-slim")
    arguments.add_argument(
        "--others", default="resnet18,resnet50,densenet121,efficientnet-b0", help="networks that only ours trains"
    )
    arguments.add_argument("--size", type=int, default=160)
    arguments.add_argument("--batch", type=int, default=64)
    arguments.add_argument("--batches", type=int, default=20, help="per round")
    arguments.add_argument("--rounds", type=int, default=5, help="rounds of each, after one that is not counted")
    arguments.add_argument("--pictures", type=int, default=512)
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--workers", type=int, default=0, help="processes of MONAI's loader; 0 as in the tutorials")
    add_common(arguments)
    chosen = arguments.parse_args()
    if chosen.quick:
        chosen.rounds, chosen.batches, chosen.batch, chosen.pictures, chosen.others = 1, 2, 8, 16, "resnet18"
    torch.set_num_threads(chosen.threads)
    config = TrainConfig(
        network=chosen.network, batch=chosen.batch, samples_per_epoch=chosen.batch * chosen.batches, epochs=1000,
        threads=chosen.threads, device=chosen.device, external=(),
    )  # fmt: skip
    images = [head(index, chosen.size) for index in range(chosen.pictures)]
    with tempfile.TemporaryDirectory() as temporary:
        files = [Path(temporary) / f"{index}.png" for index in range(len(images))]
        for file, image in zip(files, images, strict=True):
            Image.fromarray(image).save(file)
        pictures = pictures_of(images)
        tutorial_arguments = (files, pictures.labels.tolist(), config, chosen.workers)
        with ProcessPoolExecutor(1, get_context("spawn"), _make_theirs, tutorial_arguments) as apart:
            turns = ours(pictures, config), lambda: apart.submit(_run_theirs).result()
            rounds = [tuple(turn() for turn in turns) for _ in range(chosen.rounds + 1)][1:]
    ratios = [mine.rate / theirs.rate for mine, theirs in rounds]
    print(f"{chosen.network}, {chosen.size} pixels, batch {chosen.batch}, {chosen.threads} threads, {chosen.device}")
    print(summary("ours", [mine for mine, _ in rounds]))
    print(summary("MONAI", [theirs for _, theirs in rounds]))
    if chosen.json:
        mine, theirs = ([measured.rate for measured in column] for column in zip(*rounds, strict=True))
        name = f"training {chosen.network}, {chosen.size} pixels, {chosen.device}"
        rows = [against(name, mine, theirs, "MONAI's tutorial pipeline", "images/s", GOAL)]
        shares = [100 * measured.outside for measured, _ in rounds]
        rows.append(plain(f"{name}: time outside the network", shares, "%", "waiting for a batch"))
        rows += [alone(pictures, config, network) for network in chosen.others.split(",") if network]
        finish("Training", rows, chosen.json)
    reached = median(ratios) >= GOAL
    figure = f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    print(f"ratio  {figure}, goal {GOAL:g}: {'reached' if reached else 'missed'}")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
