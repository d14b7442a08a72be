"""What a training would refuse is known at conversion; what is no stack stands alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from monai_train.data.images import Picture
from monai_train.data.secondary_capture import encode_secondary_capture
from monai_train.data.sources.slice_series import SlicePlace, encode_slice
from monai_train.data.sources.stacks import PREPROCESSING_FILE, Stack, check_stack, read_preprocessing
from tests.testbed.converted import head
from tests.testbed.source_folder import dicom_series


def test_shipped_definition_is_valid() -> None:
    assert read_preprocessing(PREPROCESSING_FILE).size == 160


def write(out: Path, contents: dict[str, bytes]) -> tuple[str, ...]:
    for name, content in contents.items():
        (out / name).write_bytes(content)
    return tuple(contents)


def test_slices_of_a_series_are_numbered_from_the_base(tmp_path: Path) -> None:
    paths = write(tmp_path, {f"{9 - n}.dcm": content for n, content in enumerate(dicom_series("AX FLAIR"))})
    checked = check_stack(Stack(paths, "1.2.3"), tmp_path)
    assert [checked.columns[path]["slice_number"] for path in paths] == ["1", "2", "3", "4"]
    assert checked.columns["9.dcm"] == {
        "series": "1.2.3", "sequence": "FLAIR", "plane": "axial", "slice_number": "1", "slice_count": "4",
    }  # fmt: skip
    assert (checked.refused, checked.reason) == ({}, "")


def test_blank_picture_is_refused(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64), np.uint8)
    pixels[0, 0] = 1
    blank = encode_secondary_capture(Picture(pixels, "L", "PNG"), "ab", "a.png", 10)
    checked = check_stack(Stack(write(tmp_path, {"a.dcm": blank})), tmp_path)
    assert checked.columns == {}
    assert checked.refused["a.dcm"][0] == "blank-image"


def test_images_that_are_no_stack_stand_alone_without_a_series(tmp_path: Path) -> None:
    first, second = dicom_series("AX T2", seed=1)[0], dicom_series("AX T2", seed=2)[0]  # at the same position
    paths = write(tmp_path, {"a.dcm": first, "b.dcm": second, "c.dcm": b"no DICOM"})
    checked = check_stack(Stack(paths, "1.2.3"), tmp_path)
    assert checked.reason
    assert set(checked.columns) == {"a.dcm", "b.dcm"}
    assert {columns["series"] for columns in checked.columns.values()} == {""}
    assert set(checked.refused) == {"c.dcm"}


def test_slices_of_a_3d_series_are_numbered_as_they_are_stored(tmp_path: Path) -> None:
    contents = {}
    for number in range(1, 9):
        place = SlicePlace("p", "p", "p", "T1", number, 1.0)  # nearer than the worker would leave them
        picture = Picture(head("notumor", np.random.default_rng(number)), "L", "PNG")
        contents[f"{number}.dcm"] = encode_slice(picture, place, str(number), 1)
    checked = check_stack(Stack(write(tmp_path, contents), "1.2.3"), tmp_path)
    assert [checked.columns[f"{n}.dcm"]["slice_number"] for n in range(1, 9)] == [str(n) for n in range(1, 9)]
    assert {columns["slice_count"] for columns in checked.columns.values()} == {"8"}
