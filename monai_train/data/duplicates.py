"""Find images that show the same picture, regardless of flips, rotation, scale, brightness or sharpness.

Every image becomes two frames, the whole and the head's bounding box, since a copy may have been cropped. Local
contrast normalisation removes brightness, contrast and gamma. Coarse frames of 48 x 48 find candidates under all 8
flips and rotations; fine frames of 128 x 128 verify them, since neighbouring slices of a patient agree in the coarse
frames but not in detail. The thresholds lie on a plateau measured on the Nickparvar set: fine 0.84-0.88 gives the same
groups. In a head with slices every 1 mm, slices 3 mm apart are different pictures, slices 2 mm apart are partly the
same, closer slices are the same; so all of them stay on one side of a split, as they must.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter

from monai_train.data.images import UnreadableImage, hash_pixels, is_dicom_file, read_dicom_frame, read_picture
from monai_train.data.patients import Groups
from monai_train.data.pool import map_files, progress_bar

FloatArray = npt.NDArray[np.float32]

COARSE, COARSE_THRESHOLD = 48, 0.80
FINE, FINE_THRESHOLD = 128, 0.86
LARGE_GROUP = 300  # of a larger group, only the pairs with its first image are listed: pairs grow with the square
_BLOCK = 512
_BATCH = 1024
_INT8_SCALE = 24.0  # local contrast is within ±5 standard deviations nearly everywhere

# The transform that turns the second image of a pair into the first; applied to arrays [..., rows, columns].
TRANSFORMS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "identity": lambda x: x,
    "flip_lr": lambda x: x[..., ::-1],
    "flip_ud": lambda x: x[..., ::-1, :],
    "rot180": lambda x: x[..., ::-1, ::-1],
    "transpose": lambda x: x.swapaxes(-1, -2),
    "transverse": lambda x: x[..., ::-1, ::-1].swapaxes(-1, -2),
    "rot90": lambda x: np.rot90(x, 1, (-2, -1)),
    "rot270": lambda x: np.rot90(x, 3, (-2, -1)),
}
_INVERSES = {name: name for name in TRANSFORMS} | {"rot90": "rot270", "rot270": "rot90"}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is compared of an image, and its properties for a report.

    `coarse` [2, 48, 48] float16 and `fine` [2, 128, 128] int8: the whole image and the head's box, local contrast.
    `histogram` [32]: shares of grey values, from 0 to 255 or, for 16 bit, to the maximum of the image.
    """

    pixel_sha256: str
    mode: str
    format: str
    rows: int
    columns: int
    histogram: FloatArray
    coarse: npt.NDArray[np.float16]
    fine: npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two images (positions in the list given) that show the same picture; `transform` turns b into a.

    `score` is the correlation of the fine frames, 1 for identical pixels. A pair below FINE_THRESHOLD is connected
    through other images of its group.
    """

    a: int
    b: int
    kind: str  # exact | near
    transform: str
    score: float


def fingerprint(path: Path) -> Fingerprint | UnreadableImage:
    """The fingerprint of an image file; an error is returned, not raised, so that it passes between processes."""
    try:
        picture = read_dicom_frame(path) if is_dicom_file(path) else read_picture(path)
    except UnreadableImage as error:
        return error
    except OSError as error:
        return UnreadableImage("not-readable", error.strerror or "")
    pixels = picture.pixels
    rows, columns = pixels.shape
    sha256 = hash_pixels(pixels)
    top = 255 if pixels.dtype == np.uint8 else max(1, int(pixels.max()))
    counts, _ = np.histogram(pixels, bins=32, range=(0, top))
    whole = _at_most(Image.fromarray(pixels.astype(np.float32)), 512)
    frames = [whole, whole.crop(_head_box(np.asarray(whole)))]
    coarse = _local_contrast([f.resize((2 * COARSE,) * 2, Image.Resampling.BOX) for f in frames], 6.0, 0.8)
    coarse = coarse.reshape(2, COARSE, 2, COARSE, 2).mean(axis=(2, 4))
    fine = _local_contrast([f.resize((FINE,) * 2, Image.Resampling.BICUBIC) for f in frames], 2.7, 0.55)
    return Fingerprint(
        sha256,
        picture.mode,
        picture.format,
        rows,
        columns,
        (counts / pixels.size).astype(np.float32),
        coarse.astype(np.float16),
        np.clip(np.round(fine * _INT8_SCALE), -127, 127).astype(np.int8),
    )


def _at_most(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(n * scale)) for n in image.size)
    return image.resize((width, height), Image.Resampling.BOX)


def _head_box(grey: FloatArray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is brighter than the background; the whole image if that is too small."""
    low, high = np.percentile(grey, (1, 99))
    bright = grey > low + 0.1 * (high - low)
    rows = np.flatnonzero(bright.mean(axis=1) > 0.03)
    columns = np.flatnonzero(bright.mean(axis=0) > 0.03)
    if len(rows) < 8 or len(columns) < 8:
        return 0, 0, grey.shape[1], grey.shape[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _local_contrast(frames: Sequence[Image.Image], sigma: float, smoothing: float) -> FloatArray:
    """Contrast of every pixel in standard deviations of its neighbourhood: [frames, side, side]."""
    grey = np.stack([np.asarray(f, dtype=np.float32) for f in frames])
    grey /= np.maximum(grey.std(axis=(1, 2), keepdims=True), 1.0)
    grey = gaussian_filter(grey, (0, smoothing, smoothing))
    detail = grey - gaussian_filter(grey, (0, sigma, sigma))
    spread = np.sqrt(gaussian_filter(detail * detail, (0, sigma, sigma)))
    contrast: FloatArray = detail / (spread + 0.08)
    return contrast


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Groups of images that show the same picture (over all images, single ones included), and pairs within them."""

    groups: list[list[int]]
    pairs: list[Pair]


def fingerprint_files(paths: Sequence[Path]) -> list[Fingerprint | UnreadableImage]:
    """Compute the fingerprint of every file, in order, on all processors."""
    return list(map_files(fingerprint, paths, "read"))


def find_duplicates(prints: Sequence[Fingerprint]) -> Duplicates:
    """Group the images that show the same picture."""
    groups = Groups(len(prints))
    first: dict[str, int] = {}
    for i, image in enumerate(prints):
        groups.join(first.setdefault(image.pixel_sha256, i), i)
    unique = sorted(first.values())
    direct: dict[tuple[int, int], Pair] = {}
    for pair in _verified(prints, unique):
        direct[pair.a, pair.b] = pair
        groups.join(pair.a, pair.b)
    members = groups.members()
    return Duplicates(members, list(_pairs_within(prints, members, first, direct)))


def _verified(prints: Sequence[Fingerprint], unique: Sequence[int]) -> Iterator[Pair]:
    """The candidates that the fine frames confirm."""
    names = list(TRANSFORMS)
    candidates = np.concatenate([np.zeros((0, 3), np.int64), *_candidates([prints[u] for u in unique])])
    for k, name in enumerate(names):
        chosen = candidates[candidates[:, 2] == k]
        for start in range(0, len(chosen), _BATCH):
            batch = [(unique[i], unique[j]) for i, j, _ in chosen[start : start + _BATCH]]
            for (a, b), score in zip(batch, _fine_scores(prints, batch, name), strict=True):
                if score >= FINE_THRESHOLD:
                    yield Pair(a, b, "near", name, float(score))


def _candidates(prints: Sequence[Fingerprint]) -> Iterator[npt.NDArray[np.int64]]:
    """Pairs whose coarse frames agree, [candidates, 3]: first image, second image, number of the transform."""
    if not prints:
        return
    frames = np.stack([p.coarse for p in prints]).astype(np.float32)  # [images, 2, side, side]
    frames = _unit(frames.reshape(len(prints) * 2, -1)).reshape(frames.shape)
    flat = [np.ascontiguousarray(frames[:, f].reshape(len(prints), -1)) for f in range(2)]
    with progress_bar() as progress:
        for start in progress.track(range(0, len(prints), _BLOCK), description="compare"):
            block = frames[start : start + _BLOCK]
            best = np.full((len(block), len(prints) - start), -1.0, np.float32)
            which = np.zeros(best.shape, np.int8)
            for k, name in enumerate(TRANSFORMS):
                turned = np.ascontiguousarray(TRANSFORMS[_INVERSES[name]](block)).reshape(len(block), 2, -1)
                for f in range(2):
                    score = turned[:, f] @ flat[f][start:].T
                    better = score > best
                    best[better] = score[better]
                    which[better] = k
            i, j = np.nonzero((best >= COARSE_THRESHOLD) & (np.arange(best.shape[1]) > np.arange(len(block))[:, None]))
            yield np.stack([i + start, j + start, which[i, j]], axis=1).astype(np.int64)


def _fine_scores(prints: Sequence[Fingerprint], pairs: Sequence[tuple[int, int]], name: str) -> FloatArray:
    """Per pair, the higher correlation of its two fine frames."""
    a = np.stack([prints[i].fine for i, _ in pairs]).astype(np.float32)
    b = TRANSFORMS[name](np.stack([prints[j].fine for _, j in pairs]).astype(np.float32))
    n = 2 * len(pairs)
    products = np.einsum("ij,ij->i", _unit(a.reshape(n, -1)), _unit(b.reshape(n, -1)))
    scores: FloatArray = products.reshape(len(pairs), 2).max(axis=1)
    return scores


def _unit(rows: FloatArray) -> FloatArray:
    """Normalise each row to mean 0 and length 1; a constant row becomes 0, which correlates with nothing."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    unit: FloatArray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return unit


def _pairs_within(
    prints: Sequence[Fingerprint],
    members: Sequence[Sequence[int]],
    first: dict[str, int],
    direct: dict[tuple[int, int], Pair],
) -> Iterator[Pair]:
    """All pairs of every group; pairs that are only connected through other images are compared here."""
    for group in members:
        starts = range(len(group)) if len(group) <= LARGE_GROUP else range(1)
        for a, b in ((group[x], y) for x in starts for y in group[x + 1 :]):
            low, high = sorted((first[prints[a].pixel_sha256], first[prints[b].pixel_sha256]))
            if low == high:
                yield Pair(a, b, "exact", "identity", 1.0)
                continue
            if (low, high) not in direct:
                scored = [(float(_fine_scores(prints, [(low, high)], n)[0]), n) for n in TRANSFORMS]
                score, name = max(scored)
                direct[low, high] = Pair(low, high, "near", name, score)
            known = direct[low, high]
            swapped = first[prints[a].pixel_sha256] != low
            transform = _INVERSES[known.transform] if swapped else known.transform
            yield Pair(a, b, "near", transform, known.score)
