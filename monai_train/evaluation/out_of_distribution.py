"""Whether a bundle declines pictures that are not brain MRI: synthetic pictures, and real ones from a folder."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from monai_train.data.images import Picture
from monai_train.data.labels import NO_TUMOUR
from monai_train.data.manifest import ManifestRow
from monai_train.data.secondary_capture import encode_secondary_capture
from monai_train.evaluation.evaluate import examine_bundle
from monai_train.evaluation.metrics import BoolArray, Predictions
from worker.errors import NotAssessable, StartError
from worker.inference.aggregate import distance_and_residual, in_distribution
from worker.inference.bundle import Bundle, load_bundle
from worker.inference.classify import classify
from worker.inference.engines import OpenVinoEngine, Precision
from worker.pixels.arrays import ByteArray, FloatArray
from worker.results import ResultStatus
from worker.wording import counted

_SIZE = 256
_OF_EACH_KIND = 20
_WORDS = ("PATIENT REPORT", "Impression: normal.", "2026-11-21 09:30", "R", "kV 120 mAs 80", "Lorem ipsum dolor")
PictureMaker = Callable[[np.random.Generator], ByteArray]
PixelField = npt.NDArray[np.float64]


class PictureSource(StrEnum):
    """Where out-of-distribution pictures come from; REAL is each picture alone, SERIES a whole folder as a series."""

    SYNTHETIC = "synthetic"
    REAL = "real"
    SERIES = "real series"


@dataclass(frozen=True, slots=True)
class OutOfDistributionKind:
    """The answers to pictures of a kind that is not brain MRI.

    `declined` were unreadable for the worker or beyond the limits of the distribution; `not_assessed` were declined or
    too uncertain. The others would have been given a class.
    """

    kind: str
    n: int
    declined: int
    not_assessed: int
    source: PictureSource


@dataclass(frozen=True, eq=False, slots=True)
class OutOfDistributionCheck:
    """`accepted` of `n` slices in distribution; distance and residual [m, 2] in and out of it; limits; kinds."""

    n: int
    accepted: int
    limits: tuple[float, float]
    points_inside: FloatArray
    points_outside: FloatArray
    kinds: tuple[OutOfDistributionKind, ...]


def check_out_of_distribution(
    folder: Path, precision: Precision, features: FloatArray, slices: Predictions, real: Path | None
) -> OutOfDistributionCheck:
    """Check the limits of the bundle FOLDER on slices that it should accept, with features [n, F], and on others.

    `real` is a folder of DICOM files that are not brain MRI; a file's kind is the name of its folder.
    """
    bundle = load_bundle(folder)
    points, accepted = _within_limits(bundle, features, slices)
    with tempfile.TemporaryDirectory() as temporary:
        rows = write_synthetic_images(Path(temporary))
        checked = [_check_each(folder, bundle, precision, Path(temporary), rows, PictureSource.SYNTHETIC)]
    series: list[OutOfDistributionKind] = []
    if real is not None:
        checked.append(_check_each(folder, bundle, precision, real, _rows_of(real), PictureSource.REAL))
        series = _check_series(bundle, OpenVinoEngine(bundle, precision), real)
    limits = bundle.out_of_distribution
    return OutOfDistributionCheck(
        len(accepted),
        int(accepted.sum()),
        (limits.maximum_distance, limits.maximum_residual),
        points,
        np.concatenate([points_outside for points_outside, _ in checked]),
        (*(kind for _, kinds in checked for kind in kinds), *series),
    )


def _rows_of(folder: Path) -> list[ManifestRow]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".dcm", ".ima"))
    if not files:
        raise StartError("nothing-to-measure", f"{folder} holds no .dcm file")
    return [row_without_truth(path.relative_to(folder).as_posix(), path.parent.name) for path in files]


def _check_series(bundle: Bundle, engine: OpenVinoEngine, folder: Path) -> list[OutOfDistributionKind]:
    """Classify each subfolder of FOLDER as a series, as the worker would receive it."""
    kinds = []
    for parent in sorted({folder / Path(row.path).parent for row in _rows_of(folder)}):
        paths = sorted(path for path in parent.iterdir() if path.suffix.lower() in (".dcm", ".ima"))
        try:
            result = classify(paths, bundle, engine)
            declined = result.reason == "out-of-distribution"
            not_assessed = result.status is ResultStatus.NOT_ASSESSED
        except NotAssessable:
            declined = not_assessed = True
        name = f"{parent.name}, {counted(len(paths), 'file')} as a series"
        kinds.append(OutOfDistributionKind(name, 1, int(declined), int(not_assessed), PictureSource.SERIES))
    return kinds


def _check_each(
    folder: Path, bundle: Bundle, precision: Precision, root: Path, rows: Sequence[ManifestRow], source: PictureSource
) -> tuple[FloatArray, list[OutOfDistributionKind]]:
    """Classify each picture alone. Returns distance and residual of the readable ones, and the counts of each kind."""
    measurement, evidence = examine_bundle(folder, root, rows, precision)
    slices = measurement.slices
    points, accepted = _within_limits(bundle, evidence.features, slices)
    kinds = np.array([row.dataset for row in rows])
    counts = []
    for kind, n in Counter(kinds.tolist()).items():
        own = kinds == kind
        declined, not_assessed = int((~accepted[own]).sum()), int((~slices.assessed[own]).sum())
        counts.append(OutOfDistributionKind(kind, n, declined, not_assessed, source))
    return points[slices.predicted != slices.unreadable], counts


def _within_limits(bundle: Bundle, features: FloatArray, slices: Predictions) -> tuple[FloatArray, BoolArray]:
    """Distance and residual [n, 2], and which slices are readable and within the limits."""
    points = np.stack(distance_and_residual(features, bundle.statistics), axis=1)
    return points, in_distribution(features, bundle) & (slices.predicted != slices.unreadable)


def write_synthetic_images(folder: Path, seed: int = 0) -> list[ManifestRow]:
    """Write twenty DICOM pictures of each kind into FOLDER; returns a row for each, with its kind as `dataset`."""
    rows = []
    for kind, make in KINDS.items():
        generator = np.random.default_rng([seed, *kind.encode()])
        for index in range(_OF_EACH_KIND):
            pixels = make(generator)
            name = f"{kind.replace(' ', '-')}-{index}.dcm"
            content = encode_secondary_capture(Picture(pixels, "L", "PNG"), name, name, pixels.nbytes)
            (folder / name).write_bytes(content)
            rows.append(row_without_truth(name, kind))
    return rows


def row_without_truth(path: str, kind: str) -> ManifestRow:
    """A manifest row for a picture without a right answer."""
    return ManifestRow(path, NO_TUMOUR, path, path, kind, "", _SIZE, _SIZE, None, False)


def _bytes(field: PixelField) -> ByteArray:
    return np.asarray(np.clip(field, 0, 255), np.uint8)


def _grid() -> tuple[PixelField, PixelField]:
    y, x = np.mgrid[-1 : 1 : _SIZE * 1j, -1 : 1 : _SIZE * 1j]
    return x, y


def _smooth(generator: np.random.Generator, radius: float) -> PixelField:
    """A smooth random field, from 0 to 1."""
    noise = Image.fromarray(generator.integers(0, 256, (_SIZE, _SIZE), dtype=np.uint8))
    blurred = np.asarray(noise.filter(ImageFilter.GaussianBlur(radius)), np.float64)
    return np.asarray((blurred - blurred.min()) / max(1.0, float(np.ptp(blurred))))


def _ellipse(x: float, y: float, width: float, height: float, turn: float = 0.0) -> PixelField:
    """1 inside, 0 outside, with a soft edge."""
    across, down = _grid()
    u = (across - x) * np.cos(turn) + (down - y) * np.sin(turn)
    v = (down - y) * np.cos(turn) - (across - x) * np.sin(turn)
    return np.asarray(np.clip(12 * (1 - np.hypot(u / width, v / height)), 0, 1))


def _painted(generator: np.random.Generator, layers: list[tuple[PixelField, float]]) -> ByteArray:
    """Paint masks over each other, each with its grey; add texture and noise."""
    image = np.zeros((_SIZE, _SIZE))
    for mask, grey in layers:
        image = image * (1 - mask) + grey * generator.uniform(0.85, 1.15) * mask
    texture = 0.8 + 0.4 * _smooth(generator, 3)
    return _bytes(image * texture + generator.normal(0, 4, image.shape))


def white_noise(generator: np.random.Generator) -> ByteArray:
    """Independent pixels."""
    return _bytes(generator.normal(generator.uniform(60, 160), generator.uniform(20, 70), (_SIZE, _SIZE)))


def smooth_noise(generator: np.random.Generator) -> ByteArray:
    """Noise smoothed into clouds."""
    return _bytes(255 * _smooth(generator, generator.uniform(3, 25)))


def gradient(generator: np.random.Generator) -> ByteArray:
    """From dark to bright in any direction, or from any point."""
    x, y = _grid()
    turn = generator.uniform(0, 2 * np.pi)
    across, down = np.cos(turn), np.sin(turn)
    ramp = np.hypot(x - across / 2, y - down / 2) if generator.random() < 0.3 else x * across + y * down
    return _bytes(255 * (ramp - ramp.min()) / np.ptp(ramp))


def text(generator: np.random.Generator) -> ByteArray:
    """Lines of text, white on black or black on white."""
    light = generator.random() < 0.5
    image = Image.new("L", (_SIZE, _SIZE), 255 if light else 0)
    draw = ImageDraw.Draw(image)
    for line in range(int(generator.integers(3, 12))):
        words = str(generator.choice(_WORDS))
        position = (int(generator.integers(4, 60)), 10 + 20 * line)
        draw.text(position, words, fill=0 if light else 255, font_size=int(generator.integers(12, 26)))
    return np.asarray(image)


def checkerboard(generator: np.random.Generator) -> ByteArray:
    """Squares of a random size."""
    side = int(generator.integers(6, 50))
    y, x = np.mgrid[:_SIZE, :_SIZE]
    return _bytes(np.where((x // side + y // side) % 2, generator.uniform(140, 255), generator.uniform(0, 90)))


def bottle(generator: np.random.Generator) -> ByteArray:
    """A uniform round phantom with a bubble, as for daily quality assurance."""
    radius = generator.uniform(0.5, 0.9)
    bubble = _ellipse(generator.uniform(-0.2, 0.2), -0.8 * radius, 0.12, 0.06)
    return _painted(generator, [(_ellipse(0, 0, radius, radius), 180), (bubble, 10)])


def grid_phantom(generator: np.random.Generator) -> ByteArray:
    """A disc with a lattice of holes or bars, as for measuring distortion and resolution."""
    x, y = _grid()
    step = generator.uniform(0.1, 0.25)
    if generator.random() < 0.5:
        holes = np.hypot((x + 9) % step - step / 2, (y + 9) % step - step / 2) < 0.3 * step
    else:
        holes = (x + 9) % step < step / 2
    return _painted(generator, [(_ellipse(0, 0, 0.85, 0.85), 190), (holes * _ellipse(0, 0, 0.7, 0.7), 15)])


def abdomen(generator: np.random.Generator) -> ByteArray:
    """A wide body with fat, liver, kidneys and a spine."""
    width, height = generator.uniform(0.85, 0.95), generator.uniform(0.55, 0.7)
    return _painted(
        generator,
        [
            (_ellipse(0, 0, width, height), 220),
            (_ellipse(0, 0, 0.88 * width, 0.84 * height), 90),
            (_ellipse(-0.35, -0.08, 0.36, 0.33), 140),
            (_ellipse(0.42, -0.12, 0.2, 0.24), 120),
            (_ellipse(-0.35, 0.28, 0.12, 0.09), 190),
            (_ellipse(0.35, 0.28, 0.12, 0.09), 190),
            (_ellipse(0, 0.32, 0.13, 0.12), 160),
            (_ellipse(0, 0.34, 0.05, 0.04), 240),
        ],
    )


def thorax(generator: np.random.Generator) -> ByteArray:
    """A wide body with two dark lungs, a heart and a spine."""
    return _painted(
        generator,
        [
            (_ellipse(0, 0, 0.93, generator.uniform(0.6, 0.72)), 190),
            (_ellipse(-0.42, 0, 0.32, 0.45), 12),
            (_ellipse(0.42, 0, 0.32, 0.45), 12),
            (_ellipse(0.1, -0.12, 0.26, 0.24, 0.5), 150),
            (_ellipse(0, 0.42, 0.12, 0.12), 170),
        ],
    )


def limbs(generator: np.random.Generator) -> ByteArray:
    """Two legs or knees side by side: fat, muscle, bone."""
    layers: list[tuple[PixelField, float]] = []
    radius = generator.uniform(0.3, 0.42)
    for side in (-0.48, 0.48):
        layers += [(_ellipse(side, 0, radius, radius), 220), (_ellipse(side, 0, 0.82 * radius, 0.82 * radius), 100)]
        layers += [
            (_ellipse(side, 0.05, 0.3 * radius, 0.3 * radius), 15),
            (_ellipse(side, 0.05, 0.2 * radius, 0.2 * radius), 200),
        ]
    return _painted(generator, layers)


def spine(generator: np.random.Generator) -> ByteArray:
    """A sagittal column of vertebrae and discs with the cord behind it."""
    layers: list[tuple[PixelField, float]] = [(_ellipse(0.1, 0, 0.7, 1.6), 70), (_ellipse(0.28, 0, 0.07, 1.4), 210)]
    count = int(generator.integers(5, 9))
    for y in np.linspace(-0.9, 0.9, count):
        layers += [
            (_ellipse(0.02, y, 0.2, 0.75 / count), 150),
            (_ellipse(0.02, y + 0.9 / count, 0.18, 0.18 / count), 230),
        ]
    return _painted(generator, layers)


KINDS: dict[str, PictureMaker] = {
    "white noise": white_noise,
    "smooth noise": smooth_noise,
    "gradient": gradient,
    "text": text,
    "checkerboard": checkerboard,
    "bottle phantom": bottle,
    "grid phantom": grid_phantom,
    "abdomen": abdomen,
    "thorax": thorax,
    "limbs": limbs,
    "spine": spine,
}
