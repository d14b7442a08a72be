"""The same picture is found however it was changed, and another slice of the same head is another picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from monai_train.data import duplicates
from monai_train.data.duplicates import TRANSFORMS, Fingerprint, find_duplicates, fingerprint, fingerprint_files
from monai_train.data.patients import Groups

Grey = npt.NDArray[np.uint8]


def head(seed: int, side: int = 200) -> Grey:
    """A bright ring with folds of its own inside, off the centre: no flip or turn maps it to itself."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    radius = np.hypot((y + 0.03) / 0.42, (x - 0.02) / 0.34)
    folds = gaussian_filter(rng.standard_normal((side, side)), 5)
    folds = 110 + 55 * folds / folds.std()
    grey = np.where(radius < 1, folds, 4.0)
    grey[(radius > 0.93) & (radius < 1)] = 240
    return np.clip(gaussian_filter(grey, 0.7) + rng.normal(0, 1.5, grey.shape), 0, 255).astype(np.uint8)


def jpeg(grey: Grey) -> Grey:
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "JPEG", quality=60)
    return np.asarray(Image.open(stream))


def resize(grey: Grey, side: int) -> Grey:
    return np.asarray(Image.fromarray(grey).resize((side, side)))


def crop_to_head(grey: Grey) -> Grey:
    rows, columns = (np.flatnonzero((grey > 40).any(axis=axis)) for axis in (1, 0))
    return grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


CHANGES: dict[str, Callable[[Grey], Grey]] = {
    "jpeg": jpeg,
    "smaller": lambda g: resize(g, 110),
    "larger": lambda g: resize(g, 512),
    "brighter": lambda g: np.clip(g.astype(int) + 50, 0, 255).astype(np.uint8),
    "contrast": lambda g: np.clip(g.astype(int) * 1.8 - 60, 0, 255).astype(np.uint8),
    "gamma": lambda g: (255 * (g / 255) ** 0.5).astype(np.uint8),
    "cropped": crop_to_head,
    "margin": lambda g: np.pad(g, 30),
}


def prints_of(pictures: list[Grey], folder: Path) -> list[Fingerprint]:
    found = []
    for n, grey in enumerate(pictures):
        Image.fromarray(np.ascontiguousarray(grey)).save(folder / f"{n}.png")
        one = fingerprint(folder / f"{n}.png")
        assert isinstance(one, Fingerprint)
        found.append(one)
    return found


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_changed_copy_is_found_with_its_transform(tmp_path: Path, change: str, transform: str) -> None:
    original = head(1)
    copy = CHANGES[change](np.asarray(TRANSFORMS[transform](original)))
    found = find_duplicates(prints_of([original, copy, head(2)], tmp_path))
    assert found.groups == [[0, 1], [2]]
    [pair] = found.pairs
    assert (pair.a, pair.b, pair.kind) == (0, 1, "near")
    undone = np.asarray(TRANSFORMS[pair.transform](np.asarray(TRANSFORMS[transform](original))))
    np.testing.assert_array_equal(undone, original)


def test_identical_pixels_in_other_files_are_exact(tmp_path: Path) -> None:
    colour = np.repeat(head(1)[..., None], 3, axis=2)
    found = find_duplicates(prints_of([head(1), colour, head(2)], tmp_path))
    assert [(p.a, p.b, p.kind, p.score) for p in found.pairs] == [(0, 1, "exact", 1.0)]


def test_slices_of_one_head_six_millimetres_apart_are_other_pictures(tmp_path: Path) -> None:
    from nilearn.datasets import load_mni152_template

    volume = np.asarray(load_mni152_template(resolution=1).dataobj, dtype=np.float32)
    slices = [(255 * volume[:, :, z] / volume.max()).astype(np.uint8) for z in range(60, 120, 6)]
    found = find_duplicates(prints_of(slices, tmp_path))
    assert found.pairs == []
    assert len(found.groups) == len(slices)


def test_blank_and_tiny_pictures_are_like_nothing_but_their_copies(tmp_path: Path) -> None:
    blanks = [np.full((20, 20), value, np.uint8) for value in (0, 0, 9)] + [np.full((1, 1), 7, np.uint8)]
    found = find_duplicates(prints_of(blanks, tmp_path))
    assert found.groups == [[0, 1], [2], [3]]


def test_pairs_within_a_group_are_complete_and_copies_of_copies_are_linked(tmp_path: Path) -> None:
    original = head(1)
    pictures = [original, jpeg(original), original, CHANGES["gamma"](original)[:, ::-1]]
    found = find_duplicates(prints_of(pictures, tmp_path))
    assert found.groups == [[0, 1, 2, 3]]
    assert {(p.a, p.b) for p in found.pairs} == {(a, b) for a in range(4) for b in range(a + 1, 4)}
    assert {p.transform for p in found.pairs if p.b == 3} == {"flip_lr"}


def test_large_groups_list_only_pairs_with_their_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "LARGE_GROUP", 3)
    found = find_duplicates(prints_of([head(1)] * 5, tmp_path))
    assert [(p.a, p.b) for p in found.pairs] == [(0, 1), (0, 2), (0, 3), (0, 4)]


def test_no_images_and_one_image_have_no_pairs(tmp_path: Path) -> None:
    assert find_duplicates([]).groups == []
    assert find_duplicates(prints_of([head(1)], tmp_path)).groups == [[0]]


def test_unreadable_file_comes_back_as_its_refusal(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    [one] = fingerprint_files([tmp_path / "a.png"])
    assert not isinstance(one, Fingerprint)
    assert one.reason == "not-an-image"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=30))
def test_joined_groups_are_an_equivalence(joins: list[tuple[int, int]]) -> None:
    groups = Groups(15)
    for a, b in joins:
        groups.join(a, b)
    members = groups.members()
    assert sorted(item for group in members for item in group) == list(range(15))
    assert all(group == sorted(group) for group in members)
    assert all(groups.find(a) == groups.find(b) for a, b in joins)
    assert all(groups.find(item) == group[0] for group in members for item in group)
