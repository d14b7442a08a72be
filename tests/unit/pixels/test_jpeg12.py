from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.uid import JPEGExtended12Bit

from tests.testbed.images import image, save
from worker.pixels.jpeg12 import jpeg12_frames

WAVE = np.add.outer(np.sin(np.arange(64) / 9), np.cos(np.arange(48) / 7)) / 4 + 0.5
FRAMES = np.stack([WAVE, 1 - WAVE]) * 4095


def test_frames_of_12_bits_are_decoded_as_dcmtk_decodes_them(tmp_path: Path) -> None:
    ds = image(FRAMES.astype(np.uint16), NumberOfFrames=2, BitsStored=12, HighBit=11)
    subprocess.run(["dcmcjpeg", "+ee", save(ds, tmp_path / "a.dcm"), tmp_path / "b.dcm"], check=True)
    subprocess.run(["dcmdjpeg", tmp_path / "b.dcm", tmp_path / "c.dcm"], check=True)
    compressed = dcmread(tmp_path / "b.dcm")
    assert compressed.file_meta.TransferSyntaxUID == JPEGExtended12Bit
    frames = list(jpeg12_frames(compressed))
    assert [(frame.shape, frame.dtype) for frame in frames] == [((64, 48), np.uint16)] * 2
    reference = dcmread(tmp_path / "c.dcm").pixel_array
    assert np.abs(np.stack(frames).astype(int) - reference).max() <= 1
    assert np.abs(np.stack(frames) - FRAMES).max() < 4096 / 20
