"""Manifests, splits by patient, one a picture, and the pixels that training sees."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_train.config import ANY_TUMOUR, label_index
from monai_train.data.dataset import (
    PREPROCESSING_FILE,
    ManifestRow,
    SplitRole,
    deduplicate,
    load_pictures,
    read_manifest,
    read_preprocessing,
    split_roles,
    split_sha256,
)
from tests.testbed.converted import make_converted
from worker.errors import StartError
from worker.inference.preprocess import preprocess


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_converted(tmp_path_factory.mktemp("converted"), patients=3, external=2)


def row(group: str, picture: str = "p", dataset: str = "main", size: int = 100, conflict: bool = False) -> ManifestRow:
    return ManifestRow(f"{picture}-{size}.dcm", 0, group, picture, dataset, "0" * 64, size, size, None, conflict)


def test_manifest_is_read(data: Path) -> None:
    rows = read_manifest(data)
    assert len(rows) == 4 * 3 * 2 + 4
    assert {r.label for r in rows} == {0, 1, 2, 3, ANY_TUMOUR}
    assert {r.dataset for r in rows} == {"main", "outside"}
    assert rows[0].box is not None
    assert read_manifest(data / "manifest.csv") == rows


@pytest.mark.parametrize(
    ("word", "index"), [("no", 3), ("Normal", 3), ("no_tumour", 3), ("yes", ANY_TUMOUR), ("glioma", 0)]
)
def test_aliases(word: str, index: int) -> None:
    assert label_index(word) == index


def test_bad_manifests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="convert"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_text("path,label\n")
    with pytest.raises(StartError, match="names no picture"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_text("path,label\na.dcm,glioma\n")
    with pytest.raises(StartError, match="patient_group"):
        read_manifest(tmp_path)


def test_unknown_label_is_refused(data: Path, tmp_path: Path) -> None:
    lines = list(csv.reader((data / "manifest.csv").read_text().splitlines()))
    lines[1][1] = "banana"
    with (tmp_path / "manifest.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(lines)
    with pytest.raises(StartError, match="banana"):
        read_manifest(tmp_path)


@given(st.lists(st.tuples(st.text("abc", min_size=1, max_size=3), st.sampled_from(["main", "outside"])), max_size=60))
def test_no_patient_on_two_sides(pictures: list[tuple[str, str]]) -> None:
    rows = [row(group, dataset=dataset) for group, dataset in pictures]
    roles = split_roles(rows, ("outside",), 0.3, 0.2)
    trained = {SplitRole.TRAIN, SplitRole.VALIDATION}
    for r, role in zip(rows, roles, strict=True):
        same = {other for q, other in zip(rows, roles, strict=True) if q.patient_group == r.patient_group}
        assert len(same & {SplitRole.TRAIN, SplitRole.VALIDATION, SplitRole.TEST}) <= 1
        assert (role in {SplitRole.EXTERNAL, SplitRole.OVERLAP}) == (r.dataset == "outside")
        assert not (SplitRole.EXTERNAL in same and same & trained)


def test_split_does_not_depend_on_other_data() -> None:
    rows = [row(f"G{i}") for i in range(200)]
    roles = split_roles(rows, (), 0.2, 0.1)
    assert split_roles(rows[50:], (), 0.2, 0.1) == roles[50:]
    assert 0.12 < roles.count(SplitRole.TEST) / 200 < 0.28
    assert split_sha256(rows, roles) == split_sha256(rows[::-1], roles[::-1])


def test_one_a_picture_takes_the_largest_without_conflict() -> None:
    rows = [row("g", "p", size=50), row("g", "p", size=90), row("g", "q"), row("g", "r", conflict=True)]
    assert deduplicate(rows, range(4)) == [1, 2]


def test_pixels_are_the_workers_and_boxes_follow_the_crop(data: Path) -> None:
    rows = read_manifest(data)
    definition = read_preprocessing()
    pictures = load_pictures(data, rows, definition)
    again = load_pictures(data, rows, definition)
    assert torch.equal(pictures.pixels, again.pixels)
    tensor = preprocess([data / rows[0].path], definition).tensor[0]
    assert torch.equal(pictures.pixels[0], torch.from_numpy((tensor * 255).round().astype("uint8")))
    x, y = (pictures.boxes[0, :2] * definition.size).long().tolist()
    assert pictures.pixels[0, 0, y, x] > 200  # the mass is the brightest part
    assert pictures.boxes[-1].isnan().all()


def test_shipped_definition_is_valid() -> None:
    assert read_preprocessing(PREPROCESSING_FILE).size == 160
