"""Tables among the pictures say what is known of each; what cannot be right is named."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from monai_train.data.images import find_files
from monai_train.data.sources import tables
from monai_train.data.sources.tables import SourceTables, read_tables
from tests.testbed.source_folder import SLICES, make_archives, make_pictures, make_slices, write_table
from worker.errors import StartError


def read(source: Path, unpacked: Path | None = None) -> SourceTables:
    return read_tables(source, list(find_files(source)), unpacked)


def test_slices_have_a_place_in_their_series_and_masks_are_no_pictures(tmp_path: Path) -> None:
    make_slices(tmp_path / "src" / "whole", patients=1)
    found = read(tmp_path / "src")
    first, between, tumour = (found.listed[f"whole/P0/flair/{n:03d}.png"] for n in (1, 2, 3))
    assert (first.row.label, between.row.label, tumour.row.label) == ("notumor", "", "glioma")
    assert all(slice_.row.final for slice_ in (first, between, tumour))
    assert tumour.row.extras["sequence"] == "FLAIR"
    assert (tumour.row.extras["slice_number"], tumour.row.extras["slice_count"]) == ("3", str(SLICES))
    assert (tumour.row.extras["tumour_pixels"], tumour.row.extras["region"]) == ("40", "brain")
    assert (tumour.row.extras["dataset"], tumour.row.extras["plane"]) == ("whole", "axial")
    assert (first.mask, tumour.mask) == ("", "whole/P0/mask/003.png")
    assert tumour.mask in found.files
    assert first.place is not None
    assert tumour.place is not None
    assert first.place.series_uid == tumour.place.series_uid
    assert tumour.place.step_mm == round(tables.HEAD_MM / SLICES, 2)  # unknown: as if they covered a head
    other = found.listed["whole/P0/t1/003.png"].place
    assert other is not None
    assert other.series_uid != tumour.place.series_uid
    assert other.study == tumour.place.study


def test_step_is_the_tables_where_it_has_one_and_the_study_is_in_the_folders_name(tmp_path: Path) -> None:
    names = [f"p/{contrast}-study{study}/001.png" for contrast in ("t1", "t2") for study in (1, 2)]
    write_table(tmp_path / "slices.tsv", [
        {"path": name, "label": "notumor", "patient_group": "p", "contrast": "t1", "slice": 1, "step_mm": 3.3}
        for name in names
    ])  # fmt: skip
    places = [read(tmp_path).listed[name].place for name in names]
    assert {place.step_mm for place in places if place} == {3.3}
    assert len({place.series_uid for place in places if place}) == 4
    assert len({place.study for place in places if place}) == 2


def test_look_alikes_are_a_group_and_other_lesions_a_class(tmp_path: Path) -> None:
    make_pictures(tmp_path)
    found = read(tmp_path)
    other = found.listed["tuberculoma/t1c/a.png"]
    assert (other.row.label, other.row.extras["diagnosis"]) == ("other", "tuberculoma")
    assert (other.row.extras["sequence"], other.place) == ("T1C", None)
    assert other.row.patient_group == f"{tmp_path.name}-F4"
    assert found.covers("anything/else.png")


def test_archives_are_unpacked_and_their_rows_say_what_is_expected(tmp_path: Path) -> None:
    make_archives(tmp_path / "src" / "real")
    assert read(tmp_path / "src").listed == {}  # nowhere to unpack them
    (tmp_path / "unpacked").mkdir()
    found = read(tmp_path / "src", tmp_path / "unpacked")
    assert len(found.unpacked) == 8
    head, knee = (found.listed[f"real/{name}.tar.xz/{name}/0000.dcm"].row for name in ("1-head", "2-knee"))
    assert (head.label, head.extras["region"], head.extras["licence"]) == ("notumor", "", "MIT")
    assert (knee.label, knee.extras["region"], knee.final) == ("", "other", True)
    assert {path.parent.parent for path in found.unpacked.values()} == {tmp_path / "unpacked"}


def test_table_of_another_kind_with_that_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "series.csv").write_text("series,label\n1,glioma\n")
    (tmp_path / "unpacked").mkdir()
    assert read(tmp_path, tmp_path / "unpacked").listed == {}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"slice": 1}, "have the number 1"),
        ({"step_mm": "near"}, "step_mm 'near', not millimetres"),
        ({"step_mm": "-3"}, "step_mm '-3', not millimetres"),
        ({"step_mm": "nan"}, "step_mm 'nan', not millimetres"),
    ],
)
def test_what_cannot_be_right_is_named(tmp_path: Path, change: dict[str, object], fault: str) -> None:
    row = {"path": "p/t1/1.png", "label": "notumor", "patient_group": "p", "slice": 1, "step_mm": ""}
    write_table(tmp_path / "slices.tsv", [row, {**row, "path": "p/t1/2.png", "slice": 2, **change}])
    with pytest.raises(StartError) as caught:
        read(tmp_path)
    assert fault in caught.value.detail


def test_damaged_absent_and_bursting_archives_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path / "series.csv", [{"file": "a.tar.xz", "expected": "refused"}], ",")
    (tmp_path / "unpacked").mkdir()
    with pytest.raises(StartError, match=r"names a\.tar\.xz, which is not there"):
        read(tmp_path, tmp_path / "unpacked")
    (tmp_path / "a.tar.xz").write_bytes(b"\xfd7zXZ\0 no archive")
    with pytest.raises(StartError, match=r"cannot unpack .*a\.tar\.xz"):
        read(tmp_path, tmp_path / "unpacked")
    with tarfile.open(tmp_path / "a.tar.xz", "w:xz") as tar:
        member = tarfile.TarInfo("../../etc/passwd")
        member.size = 2000
        tar.addfile(member, io.BytesIO(bytes(2000)))
    (tmp_path / "safe").mkdir()
    (inside,) = read(tmp_path, tmp_path / "safe").unpacked.values()
    assert inside.is_relative_to(tmp_path / "safe")  # whatever the archive calls its files
    monkeypatch.setattr(tables, "MAXIMUM_UNPACKED", 1999)
    (tmp_path / "again").mkdir()
    with pytest.raises(StartError, match="unpacks to more than 1999 bytes"):
        read(tmp_path, tmp_path / "again")
