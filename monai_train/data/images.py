"""Find image files and read their pixels as one grey channel; only this module decodes PNG and JPEG."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from PIL import Image, ImageOps, UnidentifiedImageError
from pydicom.pixels import pixel_array

PictureArray = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
MAXIMUM_PIXELS = 16_777_216  # what a bundle accepts (docs/bundle.md); more is a decompression bomb


class UnreadableImage(Exception):
    """An image cannot be used; `reason` is a stable word, `detail` a sentence without names or UIDs."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)  # both, so that it can be unpickled from a child process
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Picture:
    """Decoded pixels [rows, columns] of one channel, 8 or 16 bit, upright; `mode` and `format` of the file."""

    pixels: PictureArray
    mode: str
    format: str


def find_files(folder: Path, exclude: Path | None = None) -> Iterator[str]:
    """Paths of all files under the folder, relative and with `/`; links are followed once, `exclude` is skipped."""
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if exclude is None or Path(parent, f).resolve() != exclude)
        real = os.path.realpath(parent)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        for name in sorted(names):
            yield Path(parent, name).relative_to(folder).as_posix()


def is_picture_name(path: str) -> bool:
    """Whether the file name has the suffix of PNG or JPEG."""
    return Path(path).suffix.lower() in PICTURE_SUFFIXES


def is_dicom_file(path: Path) -> bool:
    """Whether the file has the DICOM preamble (PS3.10 7.1)."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_picture(path: Path) -> Picture:
    """Read a PNG or JPEG as one grey channel, oriented by its EXIF.

    16-bit grey stays 16 bit. Colours are weighted by ITU-R 601, which leaves R=G=B unchanged; transparent pixels become
    black, like the background of an MR image. A PNG with 16 bits per colour is read as 8 bit.
    Raises UnreadableImage.
    """
    if path.stat().st_size == 0:
        raise UnreadableImage("empty-file", "the file has no bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of bombs and unusual EXIF; size and pixels are checked below
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                return _decode(image)
    except UnreadableImage:
        raise
    except UnidentifiedImageError:
        raise UnreadableImage("not-an-image", "the content is not a complete PNG or JPEG") from None
    except Image.DecompressionBombError:
        raise UnreadableImage("too-large", f"more than {MAXIMUM_PIXELS} pixels") from None
    except MemoryError:
        raise
    except Exception as error:  # the boundary to a decoder: on damaged bytes Pillow raises almost any class
        raise UnreadableImage("not-decodable", f"damaged or truncated ({type(error).__name__})") from None


def _decode(image: Image.Image) -> Picture:
    if image.width * image.height > MAXIMUM_PIXELS:
        raise UnreadableImage("too-large", f"{image.width} x {image.height} pixels")
    mode, kind = image.mode, image.format or ""
    upright = ImageOps.exif_transpose(image)
    if mode.startswith("I"):  # 16-bit grey, which some releases of Pillow open as `I`
        return Picture(np.asarray(upright).astype(np.uint16), mode, kind)
    if mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        colours = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", colours.size, "black"), colours)
    if mode not in {"L", "1"}:
        upright = upright.convert("RGB")
    return Picture(np.asarray(upright.convert("L")), mode, kind)


def read_dicom_frame(path: Path) -> Picture:
    """Read the middle frame of a DICOM image as grey 0-65535, low values dark; for display, not for training.

    Raises UnreadableImage.
    """
    try:
        ds = pydicom.dcmread(path)
        frames = int(ds.get("NumberOfFrames") or 1)
        grey = pixel_array(ds, index=frames // 2).astype(np.float32)
    except Exception as error:  # the boundary to the codecs
        raise UnreadableImage("not-decodable", f"its pixels cannot be decoded ({type(error).__name__})") from None
    if grey.ndim == 3:
        grey = grey.mean(axis=2)
    if ds.get("PhotometricInterpretation") == "MONOCHROME1":
        grey = grey.max() - grey
    if grey.min() < 0 or grey.max() > 65535:
        grey = (grey - grey.min()) * (65535 / max(1.0, float(np.ptp(grey))))
    depth = np.uint8 if int(ds.get("BitsStored", 16)) <= 8 else np.uint16
    return Picture(grey.astype(depth), str(ds.get("PhotometricInterpretation", "")), "DICOM")


def hash_pixels(pixels: PictureArray) -> str:
    """SHA-256 of shape, depth and grey values: equal for identical pictures in different files."""
    return hashlib.sha256(f"{pixels.shape}{pixels.dtype}".encode() + pixels.tobytes()).hexdigest()
