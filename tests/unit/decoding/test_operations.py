"""Each operation in a real decoder process gives what the library gives in this one."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, SecondaryCaptureImageStorage

from tests.testbed.images import image, save
from tests.unit.decoding.pictures import FRAMES
from worker.config.sections import WebSection
from worker.decoding import tasks
from worker.decoding.pool import DecoderPool
from worker.errors import NotAssessable
from worker.inference import display
from worker.pixels.frames import open_file
from worker.pixels.windowing import VoiFunction, Window
from worker.results import Activation


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DecoderPool]:
    pool = DecoderPool(WebSection(), tmp_path_factory.mktemp("pool"))
    yield pool
    pool.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save(image(FRAMES, NumberOfFrames=3), tmp_path / "a.dcm", JPEG2000Lossless)


def test_frames_native_and_as_sent(pool: DecoderPool, file: Path) -> None:
    native = pool.answer(tasks.native_frames(file, [3, 1]), "x")
    assert [b"".join(part) for part in native.parts()] == [FRAMES[2].tobytes(), FRAMES[0].tobytes()]
    assert pool.answer(tasks.native_frames(file), "x").content() == FRAMES.tobytes()
    sent = pool.answer(tasks.encapsulated_frames(file, [2]), "x").content()
    assert sent == next(open_file(file).encapsulated_frames([2]))
    with pytest.raises(NotAssessable, match="no-such-frame"):
        pool.answer(tasks.native_frames(file, [4]), "x")


def test_whole_file_decompressed(pool: DecoderPool, file: Path) -> None:
    content = pool.answer(tasks.explicit_little_endian(file), "x").content()
    assert dcmread(io.BytesIO(content)).PixelData == FRAMES.tobytes()


def test_pictures(pool: DecoderPool, file: Path) -> None:
    window = Window(2000.0, 300.5, VoiFunction.SIGMOID)
    rendered = pool.picture(tasks.rendered(file, 2, "PNG", window, 50, 90), "x")
    assert rendered == open_file(file).render(2, "PNG", window, 50, 90)
    low, high = json.loads(pool.answer(tasks.grey_window([file]), "x").content())
    assert (low, high) == display.grey_window([file])
    assert pool.picture(tasks.slice_png(file, 3, (low, high)), "x") == display.slice_png(file, 3, (low, high))
    darker = pool.picture(tasks.slice_png(file, 3, (low, high), 0.5, 1.5), "x")
    assert darker == display.slice_png(file, 3, (low, high), 0.5, 1.5)
    activation = Activation(((0, 255), (0, 0)), 0.0, 0.0, 1.0, 1.0)
    assert pool.picture(tasks.activation_png(file, 3, activation), "x") == display.activation_png(file, 3, activation)
    facts = json.loads(pool.picture(tasks.slice_facts(file, 3, (low, high)), "x"))
    assert facts == {"edges": None, "position_mm": None, "range": pytest.approx([low, high])}


def test_secondary_capture(pool: DecoderPool, tmp_path: Path) -> None:
    colours = np.random.default_rng(4).integers(0, 255, (20, 30, 3), np.uint8)
    file = save(image(colours, SOPClassUID=SecondaryCaptureImageStorage), tmp_path / "sc.dcm")
    png = Image.open(io.BytesIO(pool.picture(tasks.picture_png(file), "x")))
    assert np.array_equal(np.asarray(png), colours)


def test_missing_file_is_a_fault_of_the_disk(pool: DecoderPool, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        pool.answer(tasks.native_frames(tmp_path / "none.dcm"), "x")
