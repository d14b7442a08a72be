"""Every kind of PNG and JPEG becomes one grey channel, or a reason."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_train.data.images import MAXIMUM_PIXELS, UnreadableImage, find_files, is_dicom_file, read_picture

GREY = np.add.outer(np.arange(40) * 3, np.arange(30) * 2).astype(np.uint8)  # [40, 30], 0-175


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_grey_in_any_mode_keeps_its_values(tmp_path: Path, mode: str) -> None:
    picture = read_picture(save(tmp_path / "a.png", Image.fromarray(GREY).convert(mode)))
    assert picture.pixels.dtype == np.uint8
    np.testing.assert_array_equal(picture.pixels, GREY)
    assert (picture.mode, picture.format) == (mode, "PNG")


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    bits = GREY > 80
    picture = read_picture(save(tmp_path / "a.png", Image.fromarray(bits)))
    np.testing.assert_array_equal(picture.pixels, np.where(bits, 255, 0))


def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 300 + 7
    picture = read_picture(save(tmp_path / "a.png", Image.fromarray(deep)))
    assert picture.pixels.dtype == np.uint16
    np.testing.assert_array_equal(picture.pixels, deep)


def test_colour_is_weighed_as_rec_601(tmp_path: Path) -> None:
    picture = read_picture(save(tmp_path / "a.png", Image.new("RGB", (4, 4), (200, 100, 50))))
    assert int(picture.pixels[0, 0]) == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)


def test_palette_of_colours_is_resolved(tmp_path: Path) -> None:
    image = Image.fromarray((GREY > 80).astype(np.uint8), mode=None)
    image.putpalette([0, 0, 0, 90, 90, 90] + [0] * 750)
    picture = read_picture(save(tmp_path / "a.png", image))
    np.testing.assert_array_equal(picture.pixels, np.where(GREY > 80, 90, 0))


def test_transparent_becomes_black(tmp_path: Path) -> None:
    image = Image.fromarray(GREY).convert("RGBA")
    image.putalpha(Image.fromarray(np.where(GREY > 80, 255, 0).astype(np.uint8)))
    picture = read_picture(save(tmp_path / "a.png", image))
    np.testing.assert_array_equal(picture.pixels, np.where(GREY > 80, GREY, 0))


def test_palette_with_a_transparent_entry_becomes_black_there(tmp_path: Path) -> None:
    image = Image.fromarray((GREY > 80).astype(np.uint8), mode=None)
    image.putpalette([250, 250, 250, 90, 90, 90] + [0] * 750)
    picture = read_picture(save(tmp_path / "a.png", image, transparency=0))
    np.testing.assert_array_equal(picture.pixels, np.where(GREY > 80, 90, 0))


def test_cmyk_jpeg_is_bright_where_there_is_no_ink(tmp_path: Path) -> None:
    picture = read_picture(save(tmp_path / "a.jpg", Image.fromarray(GREY).convert("CMYK"), quality=100))
    assert picture.mode == "CMYK"
    np.testing.assert_allclose(picture.pixels.astype(int), GREY.astype(int), atol=4)


@pytest.mark.parametrize(("orientation", "turn"), [(1, 0), (6, 3), (3, 2), (8, 1)])
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.jpg", Image.fromarray(GREY), quality=100, exif=exif)
    expected = np.rot90(GREY, turn)
    pixels = read_picture(path).pixels
    assert pixels.shape == expected.shape
    np.testing.assert_allclose(pixels.astype(int), expected.astype(int), atol=3)


def test_suffix_does_not_decide_the_format(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(GREY), format="JPEG")
    assert read_picture(path).format == "JPEG"


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of few bytes that says it is this large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_bytes() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.tile(GREY, (4, 4))).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("zero.png", b"", "empty-file"),
        ("text.png", b"this is a note, no picture", "not-an-image"),
        ("cut.jpg", jpeg_bytes()[:-200], "not-decodable"),
        ("head-only.png", png_that_claims(64, 64)[:50], "not-decodable"),
        ("rows-missing.png", png_that_claims(512, 512), "not-decodable"),
        ("large.png", png_that_claims(5000, 5000), "too-large"),
        ("bomb.png", png_that_claims(60_000, 60_000), "too-large"),
        ("picture.jpg", b"GIF89a\1\0\1\0\0\0\0;", "not-an-image"),
    ],
)
def test_what_cannot_be_read_has_a_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnreadableImage) as refusal:
        read_picture(path)
    assert refusal.value.reason == reason
    assert name not in refusal.value.detail


def test_largest_allowed_picture_is_read(tmp_path: Path) -> None:
    side = int(MAXIMUM_PIXELS**0.5)
    path = save(tmp_path / "a.png", Image.new("L", (side, side), 9), compress_level=1)
    assert read_picture(path).pixels.shape == (side, side)


def test_files_are_found_in_order_through_links_once_and_without_the_output(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/1.png", "a/ü ñ.png", "out/x.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert list(find_files(tmp_path, exclude=(tmp_path / "out").resolve())) == ["a/1.png", "a/ü ñ.png", "b/2.png"]


def test_dicom_is_known_by_its_preamble(tmp_path: Path) -> None:
    (tmp_path / "yes").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "no.dcm").write_bytes(b"DICM")
    assert is_dicom_file(tmp_path / "yes")
    assert not is_dicom_file(tmp_path / "no.dcm")
    assert not is_dicom_file(tmp_path / "absent")
