"""Overlays above Bits Stored, and padding, in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.testbed.images import image, save
from worker.pixels.decode import DecodedFrame, decode

RNG = np.random.default_rng(1)
GREY12 = RNG.integers(0, 4096, (40, 36), np.uint16)


def one(path: Path) -> DecodedFrame:
    (frame,) = decode(path)
    return frame


@pytest.mark.parametrize(("value", "limit"), [(4000, 4095), (4095, 4000), (4000, None)])
def test_padding_may_be_a_range(tmp_path: Path, value: int, limit: int | None) -> None:
    pixels = np.minimum(GREY12, 3000)
    pixels[:3] = 4000
    if limit is not None:
        pixels[1], pixels[2] = 4095, 4050
        ds = image(pixels, PixelPaddingValue=value, PixelPaddingRangeLimit=limit)
    else:
        ds = image(pixels, PixelPaddingValue=value)
    frame = one(save(ds, tmp_path / "a.dcm"))
    assert (frame.pixels[:3] == pixels[3:].min()).all()
    assert (frame.pixels[3:] == pixels[3:]).all()


def test_a_range_limit_alone_is_no_padding(tmp_path: Path) -> None:
    assert (one(save(image(GREY12, PixelPaddingRangeLimit=100), tmp_path / "a.dcm")).pixels == GREY12).all()


def _smooth(dtype: type, highest: int) -> Any:
    """A head: bright in the middle, noise everywhere."""
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    head = highest * np.exp(-2 * (x**2 + y**2)) + RNG.normal(0, highest / 100, x.shape)
    return np.clip(head, 0, highest).astype(dtype)


def _drawn(pixels: Any, bits: int) -> Any:
    """The same with a frame and a filled box in these bits."""
    over = pixels.view(f"u{pixels.itemsize}").copy()
    over[10, 10:110] |= bits
    over[10:110, 10] |= bits
    over[60:90, 20:40] |= bits
    return over.view(pixels.dtype)


@pytest.mark.parametrize("bits", [1 << 12, 1 << 15, 0xA000, 0xF000], ids=hex)
@pytest.mark.parametrize("signed", [False, True])
def test_an_overlay_above_the_bits_stored_is_left_out(tmp_path: Path, bits: int, signed: bool) -> None:
    head = _smooth(np.int16, 3600) - 1600 if signed else _smooth(np.uint16, 3600)
    frame = one(save(image(_drawn(head, bits), BitsStored=12, HighBit=11), tmp_path / "a.dcm"))
    assert (frame.pixels == head).all()


@pytest.mark.parametrize("highest", [5000, 9000, 60000])
def test_values_beyond_wrong_bits_stored_stay(tmp_path: Path, highest: int) -> None:
    bright = _smooth(np.uint16, highest)
    assert (one(save(image(bright, BitsStored=12, HighBit=11), tmp_path / "a.dcm")).pixels == bright).all()
    plateau = np.where(bright > highest // 2, highest, 20).astype(np.uint16)
    assert (one(save(image(plateau, BitsStored=12, HighBit=11), tmp_path / "b.dcm")).pixels == plateau).all()
