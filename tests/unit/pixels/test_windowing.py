"""Grey levels of a display against the formulas of PS3.3 C.11, written out here value by value."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.testbed.images import image, save
from worker.pixels.decode import decoded_samples, open_image
from worker.pixels.windowing import UNCHANGED, Adjustment, VoiFunction, Window, grey_levels, has_voi, window_between

VALUES = np.arange(-300, 4100, 7, dtype=np.int16).reshape(17, 37)
Shown = npt.NDArray[Any]


def linear(x: float, center: float, width: float) -> float:
    """PS3.3 C.11.2.1.2.1, ymin = 0 and ymax = 255."""
    if x <= center - 0.5 - (width - 1) / 2:
        return 0.0
    if x > center - 0.5 + (width - 1) / 2:
        return 255.0
    return ((x - (center - 0.5)) / (width - 1) + 0.5) * 255


def linear_exact(x: float, center: float, width: float) -> float:
    """PS3.3 C.11.2.1.3.2."""
    if x <= center - width / 2:
        return 0.0
    if x > center + width / 2:
        return 255.0
    return ((x - center) / width + 0.5) * 255


def sigmoid(x: float, center: float, width: float) -> float:
    """PS3.3 C.11.2.1.3.1."""
    return 255 / (1 + math.exp(min(-4 * (x - center) / width, 700)))  # beyond, a float has no such number


def lut(entries: list[Any], first: int, bits: int, vr: str = "US") -> Dataset:
    """A LUT (PS3.3 C.11.2.1.1)."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % (1 << 16), first, bits])
    item.add_new("LUTData", vr, entries)
    return item


def shown(tmp_path: Path, ds: Dataset, frame: int = 0, *, syntax: str = ExplicitVRLittleEndian) -> Shown:
    opened = open_image(save(ds, tmp_path / "a.dcm", syntax))
    return grey_levels(opened, frame, next(decoded_samples(opened, [frame])))


def expected(values: npt.NDArray[Any], function: Any) -> Shown:
    return np.rint(np.vectorize(function, otypes=[float])(values.astype(float)))


@pytest.mark.parametrize(
    ("header", "formula"),
    [
        ({}, linear),
        ({"VOILUTFunction": "LINEAR"}, linear),
        ({"VOILUTFunction": "LINEAR_EXACT"}, linear_exact),
        ({"VOILUTFunction": "SIGMOID"}, sigmoid),
    ],
)
@pytest.mark.parametrize(("center", "width"), [(1000, 800), (2048.25, 4096), (40, 1.5), (100, 1)])
def test_window_of_the_header(
    tmp_path: Path, header: dict[str, str], formula: Any, center: float, width: float
) -> None:
    ds = image(VALUES, WindowCenter=center, WindowWidth=width, **header)
    assert np.array_equal(shown(tmp_path, ds), expected(VALUES, lambda x: formula(x, center, width)))


def test_linear_is_not_linear_exact(tmp_path: Path) -> None:
    # The standard's own example (C.11.2.1.2.1): center 2048, width 4096 maps 0 to black and 4095 to white.
    values = np.array([[0, 1, 4094, 4095]], np.uint16)
    assert shown(tmp_path, image(values, WindowCenter=100, WindowWidth=1)).tolist() == [[0, 0, 255, 255]]
    window = {"WindowCenter": 2, "WindowWidth": 4}
    steps = np.array([[0, 1, 2, 3]], np.uint16)
    assert shown(tmp_path, image(steps, **window)).tolist() == [[0, 85, 170, 255]]
    assert shown(tmp_path, image(steps, VOILUTFunction="LINEAR_EXACT", **window)).tolist() == [[0, 64, 128, 191]]


def test_window_holds_after_the_rescale(tmp_path: Path) -> None:
    ds = image(VALUES, RescaleSlope=0.5, RescaleIntercept=-20, WindowCenter=600, WindowWidth=900)
    assert np.array_equal(shown(tmp_path, ds), expected(VALUES, lambda x: linear(x * 0.5 - 20, 600, 900)))
    third = 1 / 3  # a DS of more than its 16 characters, as a slope that some scanners write
    ds = image(VALUES, RescaleSlope=third, WindowCenter=600, WindowWidth=900)
    assert np.array_equal(shown(tmp_path, ds), expected(VALUES, lambda x: linear(x * round(third, 14), 600, 900)))


def test_negative_slope_shows_low_stored_values_white(tmp_path: Path) -> None:
    ds = image(VALUES, RescaleSlope=-1, RescaleIntercept=4000, WindowCenter=2000, WindowWidth=4000)
    assert np.array_equal(shown(tmp_path, ds), expected(VALUES, lambda x: linear(4000 - x, 2000, 4000)))


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_voi_lut_sequence_comes_before_a_window(tmp_path: Path, bits: int, syntax: str) -> None:
    white, first = (1 << bits) - 1, -100
    entries = [round(white * (place / 1999) ** 2) for place in range(2000)]  # more than 256, of 8 bits too
    ds = image(VALUES, VOILUTSequence=[lut(entries, first, bits)], WindowCenter=10, WindowWidth=10)

    def look_up(x: float) -> float:
        return entries[min(max(int(x) - first, 0), 1999)] / white * 255

    assert np.array_equal(shown(tmp_path, ds, syntax=syntax), expected(VALUES, look_up))


@pytest.mark.parametrize(("syntax", "order"), [(ExplicitVRLittleEndian, "<"), (ExplicitVRBigEndian, ">")])
def test_voi_lut_as_words(tmp_path: Path, syntax: str, order: str) -> None:
    entries = np.arange(0, 65535, 30, dtype=np.uint16)
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), 0, 16])
    item.add_new("LUTData", "OW", entries.astype(f"{order}u2").tobytes())
    grey = shown(tmp_path, image(VALUES, VOILUTSequence=[item]), syntax=syntax)
    assert np.array_equal(grey, expected(VALUES, lambda x: entries[int(min(max(x, 0), 2184))] / 65535 * 255))


def test_voi_lut_of_packed_8_bit_entries(tmp_path: Path) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [256, 1000, 8])
    item.add_new("LUTData", "OW", bytes(255 - place for place in range(256)))
    ds = image(VALUES, VOILUTSequence=[item])
    assert np.array_equal(shown(tmp_path, ds), expected(VALUES, lambda x: 255 - min(max(x - 1000, 0), 255)))


def test_voi_lut_holds_after_the_rescale(tmp_path: Path) -> None:
    entries = [round(65535 * place / 999) for place in range(1000)]
    ds = image(VALUES, RescaleSlope=0.25, VOILUTSequence=[lut(entries, 50, 16)])
    look_up = expected(VALUES, lambda x: entries[min(max(round(x * 0.25) - 50, 0), 999)] / 65535 * 255)
    assert np.array_equal(shown(tmp_path, ds), look_up)


def test_modality_lut_comes_before_the_window(tmp_path: Path) -> None:
    entries = [min(place * 3, 65535) for place in range(3000)]
    ds = image(VALUES, ModalityLUTSequence=[lut(entries, 0, 16)], WindowCenter=3000, WindowWidth=5000)
    formula = expected(VALUES, lambda x: linear(entries[min(max(int(x), 0), 2999)], 3000, 5000))
    assert np.array_equal(shown(tmp_path, ds), formula)


def test_8_bit_image_with_a_long_modality_lut(tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    ds = image(values, ModalityLUTSequence=[lut(list(range(0, 8000, 2)), 0, 16)], WindowCenter=250, WindowWidth=500)
    assert np.array_equal(shown(tmp_path, ds), expected(values, lambda x: linear(2 * x, 250, 500)))


def enhanced(frames: npt.NDArray[Any], shared: dict[str, Any], *per_frame: dict[str, Any]) -> Dataset:
    def group(macros: dict[str, Any]) -> Dataset:
        ds = Dataset()
        for sequence, attributes in macros.items():
            item = Dataset()
            for keyword, value in attributes.items():
                setattr(item, keyword, value)
            setattr(ds, sequence, [item])
        return ds

    return image(
        frames,
        SOPClassUID=EnhancedMRImageStorage,
        NumberOfFrames=len(frames),
        SharedFunctionalGroupsSequence=[group(shared)],
        PerFrameFunctionalGroupsSequence=[group(macros) for macros in per_frame],
    )


def test_every_frame_of_an_enhanced_image_has_its_own_window_and_rescale(tmp_path: Path) -> None:
    frames = np.stack([VALUES, VALUES // 3])
    first = {"RescaleSlope": 2, "RescaleIntercept": -1024, "RescaleType": "US"}
    second = {"RescaleSlope": 10, "RescaleIntercept": 5, "RescaleType": "US"}
    ds = enhanced(
        frames,
        {},
        {
            "PixelValueTransformationSequence": first,
            "FrameVOILUTSequence": {"WindowCenter": 3000, "WindowWidth": 6000},
        },
        {
            "PixelValueTransformationSequence": second,
            "FrameVOILUTSequence": {"WindowCenter": 7000, "WindowWidth": 9000, "VOILUTFunction": "SIGMOID"},
        },
    )
    assert np.array_equal(shown(tmp_path, ds, 0), expected(frames[0], lambda x: linear(2 * x - 1024, 3000, 6000)))
    assert np.array_equal(shown(tmp_path, ds, 1), expected(frames[1], lambda x: sigmoid(10 * x + 5, 7000, 9000)))


def test_shared_groups_hold_for_every_frame_and_come_before_the_top_level(tmp_path: Path) -> None:
    frames = np.stack([VALUES, VALUES // 2])
    ds = enhanced(
        frames,
        {
            "PixelValueTransformationSequence": {"RescaleSlope": 3, "RescaleIntercept": 0, "RescaleType": "US"},
            "FrameVOILUTSequence": {"WindowCenter": 5000, "WindowWidth": 8000},
        },
        {},
        {},
    )
    ds.WindowCenter, ds.WindowWidth, ds.RescaleSlope, ds.RescaleIntercept = 1, 2, 1, 0
    for frame in (0, 1):
        formula = expected(frames[frame], lambda x: linear(3 * x, 5000, 8000))
        assert np.array_equal(shown(tmp_path, ds, frame), formula)


def test_image_without_a_voi_transformation_is_shown_by_nearly_all_its_values(tmp_path: Path) -> None:
    grey = shown(tmp_path, image(VALUES))
    low, high = np.percentile(VALUES, (1, 99.7))
    assert np.array_equal(grey, expected(VALUES, lambda x: linear_exact(x, (low + high) / 2, high - low)))
    assert (grey.min(), grey.max()) == (0, 255)
    assert not shown(tmp_path, image(np.full((4, 4), 77, np.uint16))).any()


@pytest.mark.parametrize(
    "header",
    [
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": 100, "WindowWidth": -5},
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowCenter": 100},
        {"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "CUBIC"},
        {"VOILUTSequence": []},
        {"VOILUTSequence": [Dataset()]},
        {"VOILUTSequence": [lut([1, 2, 3], 0, 4)]},
        {"VOILUTSequence": [lut([1, 70000, 3], 0, 16, vr="UL")]},
        {"VOILUTSequence": [lut(["x"], 0, 16, vr="LO")]},
        {"VOILUTSequence": [lut([], 0, 16)]},
        {"VOILUTSequence": [lut([500], 0, 16)]},
    ],
)
def test_transformation_that_cannot_be_applied_counts_as_absent(tmp_path: Path, header: dict[str, Any]) -> None:
    assert np.array_equal(shown(tmp_path, image(VALUES, **header)), shown(tmp_path, image(VALUES)))


def test_lut_that_is_cut_short_counts_as_absent(tmp_path: Path) -> None:
    item = lut([1, 2, 3], 0, 16)
    item.LUTDescriptor = [300, 0, 16]
    ds = image(VALUES, VOILUTSequence=[item], WindowCenter=100, WindowWidth=500)
    assert np.array_equal(shown(tmp_path, ds), expected(VALUES, lambda x: linear(x, 100, 500)))


def test_width_below_1_is_applied_exactly(tmp_path: Path) -> None:
    ds = image(VALUES, RescaleSlope=0.0001, WindowCenter=0.2, WindowWidth=0.3)
    assert np.array_equal(shown(tmp_path, ds), expected(VALUES, lambda x: linear_exact(x * 0.0001, 0.2, 0.3)))


def test_first_of_several_windows(tmp_path: Path) -> None:
    ds = image(VALUES, WindowCenter=[500, 40], WindowWidth=[900, 80])
    assert np.array_equal(shown(tmp_path, ds), expected(VALUES, lambda x: linear(x, 500, 900)))


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    ds = image(VALUES, PhotometricInterpretation="MONOCHROME1", WindowCenter=1000, WindowWidth=1801)
    plain = np.vectorize(linear)(VALUES.astype(float), 1000, 1801)
    assert np.array_equal(shown(tmp_path, ds), np.rint(255 - plain))


def test_asked_window_replaces_that_of_the_header_and_not_the_rescale(tmp_path: Path) -> None:
    ds = image(
        VALUES, RescaleSlope=2, RescaleIntercept=10, WindowCenter=1, WindowWidth=2,
        VOILUTSequence=[lut([0, 1], 0, 16)],
    )  # fmt: skip
    opened = open_image(save(ds, tmp_path / "a.dcm"))
    grey = grey_levels(opened, 0, VALUES, Window(2000, 3000, VoiFunction.LINEAR_EXACT))
    assert np.array_equal(grey, expected(VALUES, lambda x: linear_exact(2 * x + 10, 2000, 3000)))


def test_sign_of_12_bits_is_extended(tmp_path: Path) -> None:
    values = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)
    ds = image(values & 0x0FFF, BitsStored=12, HighBit=11, WindowCenter=0, WindowWidth=4096)
    assert np.array_equal(shown(tmp_path, ds), expected(values, lambda x: linear(x, 0, 4096)))


def test_sparse_values_of_32_bits(tmp_path: Path) -> None:
    values = np.array([[0, 10**9, 2 * 10**9, 4 * 10**9]], np.uint32)
    ds = image(values, WindowCenter=2e9, WindowWidth=4e9)
    assert shown(tmp_path, ds).tolist() == [[0, 64, 128, 255]]


def adjusted(tmp_path: Path, ds: Dataset, adjustment: Adjustment) -> Shown:
    opened = open_image(save(ds, tmp_path / "a.dcm"))
    return grey_levels(opened, 0, next(decoded_samples(opened, [0])), adjustment=adjustment)


def test_adjusted_window_is_the_window_of_the_image_moved_and_widened(tmp_path: Path) -> None:
    ds = image(VALUES, WindowCenter=1000, WindowWidth=800, VOILUTFunction="LINEAR_EXACT")
    moved = adjusted(tmp_path, ds, Adjustment(0.25, 1.25))
    assert np.array_equal(moved, expected(VALUES, lambda x: linear_exact(x, 1200, 800)))
    narrow = adjusted(tmp_path, ds, Adjustment(0.25, 0.75))
    assert np.array_equal(narrow, expected(VALUES, lambda x: linear_exact(x, 1000, 400)))
    soft = image(VALUES, WindowCenter=1000, WindowWidth=800, VOILUTFunction="SIGMOID")
    assert np.array_equal(
        adjusted(tmp_path, soft, Adjustment(-0.5, 1.5)), expected(VALUES, lambda x: sigmoid(x, 1000, 1600))
    )


def test_adjusted_lut_keeps_its_curve(tmp_path: Path) -> None:
    entries = [round(65535 * (index / 1000) ** 2) for index in range(1001)]
    ds = image(np.arange(0, 1200, 3, dtype=np.uint16).reshape(20, 20), VOILUTSequence=[lut(entries, 100, 16)])
    plain, moved = adjusted(tmp_path, ds, UNCHANGED), adjusted(tmp_path, ds, Adjustment(0.3, 1.3))
    assert np.array_equal(moved.ravel()[100:], plain.ravel()[:-100])


def test_window_instead_is_for_an_image_without_one(tmp_path: Path) -> None:
    instead = Adjustment(instead=window_between(0, 1000))
    assert np.array_equal(
        adjusted(tmp_path, image(VALUES), instead), expected(VALUES, lambda x: linear_exact(x, 500, 1000))
    )
    ds = image(VALUES, WindowCenter=100, WindowWidth=50)
    assert np.array_equal(adjusted(tmp_path, ds, instead), adjusted(tmp_path, ds, UNCHANGED))


def test_header_tells_whether_it_has_a_transformation(tmp_path: Path) -> None:
    def told(**attributes: Any) -> bool:
        return has_voi(open_image(save(image(VALUES, **attributes), tmp_path / "a.dcm")), 0)

    group = Dataset()
    group.FrameVOILUTSequence = [Dataset()]
    group.FrameVOILUTSequence[0].WindowCenter, group.FrameVOILUTSequence[0].WindowWidth = 5, 9
    assert told(WindowCenter=3, WindowWidth=8)
    assert told(VOILUTSequence=[lut([0, 255], 3, 8)])
    assert told(SharedFunctionalGroupsSequence=[group])
    assert not told()
    assert not told(WindowCenter=3, WindowWidth=0)


def test_means_of_several_frames_are_shown_as_whole_values_are(tmp_path: Path) -> None:
    opened = open_image(save(image(VALUES, WindowCenter=1000, WindowWidth=800), tmp_path / "a.dcm"))
    whole, mean = grey_levels(opened, 0, VALUES), grey_levels(opened, 0, VALUES.astype(np.float32))
    assert np.array_equal(whole, mean)


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_padding_is_black_and_takes_no_part_in_the_window(tmp_path: Path, photometric: str) -> None:
    grey = np.arange(0, 1000, dtype=np.uint16).reshape(25, 40)
    padded = np.vstack([grey, np.full((25, 40), 4000, np.uint16), np.full((25, 40), 4090, np.uint16)])
    header = {"PhotometricInterpretation": photometric}
    plain = shown(tmp_path, image(grey, **header))
    for extra in ({}, {"WindowCenter": 500, "WindowWidth": 1000}):
        ds = image(padded, PixelPaddingValue=4000, PixelPaddingRangeLimit=4095, **header, **extra)
        assert (shown(tmp_path, ds)[25:] == 0).all()
    ds = image(padded, PixelPaddingValue=4000, PixelPaddingRangeLimit=4095, **header)
    assert np.array_equal(shown(tmp_path, ds)[:25], plain)
    assert len(np.unique(plain)) > 200


def test_an_overlay_in_high_bits_darkens_nothing(tmp_path: Path) -> None:
    grey = np.repeat(np.arange(0, 4000, 40, dtype=np.uint16)[None], 60, axis=0)
    drawn = grey.copy()
    drawn[20:30, 20:60] |= 0x8000
    header = {"BitsStored": 12, "HighBit": 11}
    assert np.array_equal(shown(tmp_path, image(drawn, **header)), shown(tmp_path, image(grey, **header)))
