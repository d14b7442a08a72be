"""A manifest is read whole or refused with its line; the largest copy of a picture stands for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_train.data.inventory import list_converted
from monai_train.data.manifest import ManifestRow, deduplicate, read_manifest
from tests.testbed.converted import CLASSES, make_converted
from worker.errors import StartError

HEADER = "path,label,patient_group,picture_group,source_sha256,rows,columns"
LINE = "a.dcm,gliomas,P1,p1,00,20,30"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_converted(tmp_path_factory.mktemp("converted"), patients=3, external=2)


def write(folder: Path, *lines: str) -> Path:
    (folder / "manifest.csv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(StartError) as caught:
        read_manifest(folder)
    return caught.value.detail


def row(group: str, picture: str = "p", dataset: str = "main", size: int = 100, conflict: bool = False) -> ManifestRow:
    return ManifestRow(f"{picture}-{size}.dcm", "glioma", group, picture, dataset, "0" * 64, size, size, None, conflict)


def test_manifest_is_read(data: Path) -> None:
    rows = read_manifest(data)
    assert len(rows) == 4 * 3 * 2 + 4
    assert {r.label for r in rows} == set(CLASSES.label_names)
    assert {r.dataset for r in rows} == {"main", "outside"}
    assert rows[0].box is not None
    assert read_manifest(data / "manifest.csv") == rows


def test_bad_manifests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="convert"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_text("path,label\n")
    with pytest.raises(StartError, match="names no picture"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_text("path,label\na.dcm,glioma\n")
    with pytest.raises(StartError, match="patient_group"):
        read_manifest(tmp_path)


COLUMNS = "sequence,slice_number,slice_count,tumour_pixels,head_pixels,mask,diagnosis,series,region,plane,licence"


def test_what_is_known_of_a_slice_is_read(tmp_path: Path) -> None:
    known = "FLAIR,3,24,0,9000,masks/a.png,astrocytoma,1.2.3,brain,axial,CC BY 4.0"
    first, second = read_manifest(write(tmp_path, f"{HEADER},{COLUMNS}", f"{LINE},{known}", f"{LINE},,,,,,,,,,"))
    assert (first.sequence, first.slice_number, first.slice_count) == ("FLAIR", 3, 24)
    assert (first.tumour_pixels, first.head_pixels, first.mask) == (0, 9000, "masks/a.png")
    assert (first.diagnosis, first.series) == ("astrocytoma", "1.2.3")
    assert (first.region, first.plane, first.licence) == ("brain", "axial", "CC BY 4.0")
    assert second == read_manifest(write(tmp_path, HEADER, LINE))[0]  # an empty value is a missing column


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ("T1w,,,,,,,,,,", "sequence is 'T1w', none of T1, T1C, T2, FLAIR, other"),
        (",first,,,,,,,,,", "slice_number is 'first', not a whole number"),
        (",5,4,,,,,,,,", "slice_number 5 is not within 1 and 4"),
        (",0,4,,,,,,,,", "slice_number 0 is not within 1 and 4"),
        (",,,-1,,,,,,,", "tumour_pixels is '-1', not a whole number"),
        (",,,,,,,,knee,,", "region is 'knee', none of brain, head, other"),
        (",,,,,,,,,oblique,", "plane is 'oblique', none of axial, coronal, sagittal"),
    ],
)
def test_unknown_value_of_a_slice_is_named_with_its_line(tmp_path: Path, values: str, fault: str) -> None:
    assert f"line 2: {fault}" in refusal(write(tmp_path, f"{HEADER},{COLUMNS}", f"{LINE},{values}"))


def test_row_without_a_label_is_kept_but_in_no_figure(tmp_path: Path) -> None:
    rows = read_manifest(write(tmp_path, HEADER, LINE, "b.dcm,,P1,p2,01,20,30", "c.dcm,abscess,P2,p3,02,20,30"))
    assert [row.label for row in rows] == ["glioma", "", "abscess"]
    assert deduplicate(rows, range(3)) == [0, 2]


def test_manifest_made_by_hand_needs_neither_dataset_nor_source(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    rows = read_manifest(write(tmp_path / "site", HEADER, LINE))
    assert rows == (ManifestRow("a.dcm", "glioma", "P1", "p1", "site", "00", 20, 30, None, False),)


def test_dataset_is_its_column_else_the_first_folder_of_the_source_that_is_no_class(tmp_path: Path) -> None:
    lines = [
        f"{LINE},other,cheng/1.png",
        f"{LINE},,cheng/glioma/1.png",
        f"{LINE},,1.png",
        f"{LINE},,",
        f"{LINE},,glioma/1.png",
    ]
    rows = read_manifest(write(tmp_path, f"{HEADER},dataset,source", *lines))
    assert [row.dataset for row in rows] == ["other", "cheng", *[tmp_path.name] * 3]


@pytest.mark.parametrize("column", HEADER.split(","))
def test_missing_column_is_named(tmp_path: Path, column: str) -> None:
    kept = [(name, value) for name, value in zip(HEADER.split(","), LINE.split(","), strict=True) if name != column]
    detail = refusal(write(tmp_path, *(",".join(cells) for cells in zip(*kept, strict=True))))
    assert f"has no column '{column}'" in detail


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("a.dcm,glioma,P1,p1,00,many,30", "rows is 'many', not a whole number above 0"),
        ("a.dcm,glioma,P1,p1,00,20,0", "columns is '0', not a whole number above 0"),
        ("a.dcm,glioma,P1,p1", "rows is '', not a whole number above 0"),
        ("a.dcm,glioma,,p1,00,20,30", "patient_group is empty"),
        ("a.dcm,glioma,P1,,00,20,30", "picture_group is empty"),
        (",glioma,P1,p1,00,20,30", "path is empty"),
        ("a.dcm,glioma,P1,p1,00,20,30,,too,many", "has more values than the header has columns"),
        ("a.dcm,glioma,P1,p1,00,20,30,0.5 0.5 wide 0.2", "tumour_box_xywh is '0.5 0.5 wide 0.2', not four numbers"),
    ],
)
def test_fault_is_named_with_its_line(tmp_path: Path, line: str, fault: str) -> None:
    detail = refusal(write(tmp_path, f"{HEADER},tumour_box_xywh", f"{LINE},", f"{LINE},0.5 0.5 0.1 0.2", line))
    assert f"{tmp_path / 'manifest.csv'}, line 4" in detail
    assert fault in detail


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes(b"path,label\n\xff\xfe,no\n")
    assert "is not a CSV table in UTF-8" in refusal(tmp_path)


def test_byte_order_mark_of_a_spreadsheet_is_ignored(tmp_path: Path) -> None:
    write(tmp_path, "\ufeff" + HEADER, LINE)
    assert read_manifest(tmp_path)[0].path == "a.dcm"


def test_audit_takes_classes_that_no_network_knows(tmp_path: Path) -> None:
    write(tmp_path, "path,label,patient_group,picture_group", "a.dcm,abscess,P1,p1")
    (image,) = list_converted(tmp_path).images
    assert (image.source, image.label, image.split, image.patient_group) == ("a.dcm", "abscess", "", "P1")


def test_deduplicate_takes_the_largest_without_conflict() -> None:
    rows = [row("g", "p", size=50), row("g", "p", size=90), row("g", "q"), row("g", "r", conflict=True)]
    assert deduplicate(rows, range(4)) == [1, 2]
