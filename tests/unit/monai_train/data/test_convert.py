"""Folders of pictures and of labelled DICOM become DICOM and a manifest that can be trusted."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.pixels import pixel_array
from typer.testing import CliRunner

from monai_train.cli.app import app, main
from monai_train.data.convert import convert
from monai_train.data.manifest import MANIFEST_COLUMNS, read_manifest
from tests.testbed.source_folder import SLICES, dicom_series, make_archives, make_pictures, make_slices
from worker.dicom.standard import is_uid
from worker.errors import StartError


def picture(path: Path, seed: int, side: int = 32) -> Path:
    """A PNG of its own for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side + 1), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def by_source(out: Path) -> dict[str, dict[str, str]]:
    return {row["source"]: row for row in rows(out / "manifest.csv")}


def tree_hash(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture
def src(tmp_path: Path) -> Path:
    source = tmp_path / "src"
    for n, name in enumerate(["Training/glioma_tumor/a.png", "Training/no_tumor/b.png", "Testing/Pituitary/c.png"]):
        picture(source / name, n)
    return source


def test_class_and_split_come_from_the_folders(src: Path, tmp_path: Path) -> None:
    convert(src, tmp_path / "out")
    found = by_source(tmp_path / "out")
    assert {s: (r["label"], r["split"]) for s, r in found.items()} == {
        "Training/glioma_tumor/a.png": ("glioma", "train"),
        "Training/no_tumor/b.png": ("notumor", "train"),
        "Testing/Pituitary/c.png": ("pituitary", "test"),
    }
    assert tuple(found["Testing/Pituitary/c.png"]) == MANIFEST_COLUMNS


def test_dicom_holds_the_pixels_and_neither_label_nor_path(src: Path, tmp_path: Path) -> None:
    convert(src, tmp_path / "out")
    row = by_source(tmp_path / "out")["Training/glioma_tumor/a.png"]
    path = tmp_path / "out" / row["path"]
    ds = pydicom.dcmread(path)
    np.testing.assert_array_equal(pixel_array(ds), np.asarray(Image.open(src / "Training/glioma_tumor/a.png")))
    assert (ds.Modality, ds.PhotometricInterpretation, ds.Rows, ds.Columns) == ("MR", "MONOCHROME2", 32, 33)
    assert (row["rows"], row["columns"]) == ("32", "33")
    assert all(is_uid(ds[name].value) for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"))
    assert row["source_sha256"] == hashlib.sha256((src / "Training/glioma_tumor/a.png").read_bytes()).hexdigest()
    content = path.read_bytes() + row["path"].encode()
    assert b"glioma" not in content
    assert b"Training" not in content


def test_sixteen_bits_stay_and_lossy_is_said(tmp_path: Path) -> None:
    deep = (np.arange(30 * 21).reshape(30, 21) * 90).astype(np.uint16)
    (tmp_path / "src" / "x").mkdir(parents=True)
    Image.fromarray(deep).save(tmp_path / "src" / "x" / "deep.png")
    Image.fromarray((deep // 256).astype(np.uint8)).save(tmp_path / "src" / "x" / "lossy.jpg")
    convert(tmp_path / "src", tmp_path / "out")
    found = by_source(tmp_path / "out")
    ds = pydicom.dcmread(tmp_path / "out" / found["x/deep.png"]["path"])
    assert (ds.BitsStored, "LossyImageCompression" in ds) == (16, False)
    np.testing.assert_array_equal(pixel_array(ds), deep)
    ds = pydicom.dcmread(tmp_path / "out" / found["x/lossy.jpg"]["path"])
    assert (ds.BitsStored, ds.LossyImageCompression) == (8, "01")


def test_second_run_gives_the_same_bytes(src: Path, tmp_path: Path) -> None:
    convert(src, tmp_path / "one")
    convert(src, tmp_path / "two")
    assert tree_hash(tmp_path / "one") == tree_hash(tmp_path / "two")
    convert(src, tmp_path / "one")
    assert tree_hash(tmp_path / "one") == tree_hash(tmp_path / "two")


def test_interrupted_run_leaves_no_manifest_and_the_next_one_completes(
    src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    convert(src, out)
    expected = tree_hash(out)

    def stop(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("monai_train.data.convert.encode_secondary_capture", stop)
    with pytest.raises(KeyboardInterrupt):
        convert(src, out)
    assert not (out / "manifest.csv").exists()
    monkeypatch.undo()
    convert(src, out)
    assert tree_hash(out) == expected


def test_same_bytes_twice_are_two_objects_in_one_group(tmp_path: Path) -> None:
    first = picture(tmp_path / "src" / "Training" / "no" / "a.png", 1)
    (tmp_path / "src" / "Testing" / "no").mkdir(parents=True)
    shutil.copy(first, tmp_path / "src" / "Testing" / "no" / "b.png")
    convert(tmp_path / "src", tmp_path / "out")
    one, other = rows(tmp_path / "out" / "manifest.csv")
    assert one["path"] != other["path"]
    assert one["patient_group"] == other["patient_group"]
    assert one["picture_group"] == other["picture_group"]


def test_unicode_names_and_pictures_in_deep_folders_are_taken(tmp_path: Path) -> None:
    name = "Клиника/Jürgen №1/脑/Épendymome n° 2/ä b.PNG"
    picture(tmp_path / "src" / name, 1)
    convert(tmp_path / "src", tmp_path / "out")
    assert by_source(tmp_path / "out")[name]["label"] == "épendymome n° 2"


def test_nothing_is_skipped_in_silence(src: Path, tmp_path: Path) -> None:
    (src / "Training" / "glioma_tumor" / "empty.jpg").touch()
    (src / "Training" / "glioma_tumor" / "text.png").write_text("no picture")
    (src / "Training" / "notes.txt").write_text("hello")
    picture(src / "Testing" / "loose.png", 9)
    convert(src, tmp_path / "out")
    rejected = {row["source"]: row["reason"] for row in rows(tmp_path / "out" / "rejected.csv")}
    assert rejected == {
        "Testing/loose.png": "no-label",
        "Training/glioma_tumor/empty.jpg": "empty-file",
        "Training/glioma_tumor/text.png": "not-an-image",
        "Training/notes.txt": "not-an-image",
    }
    assert len(rows(tmp_path / "out" / "manifest.csv")) == 3


def test_name_that_is_not_unicode_is_listed(src: Path, tmp_path: Path) -> None:
    try:
        shutil.copy(src / "Training/no_tumor/b.png", os.fsencode(src / "Training/no_tumor") + b"/\xff.png")
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    convert(src, tmp_path / "out")
    assert [row["reason"] for row in rows(tmp_path / "out" / "rejected.csv")] == ["bad-file-name"]


def test_same_picture_with_another_label_is_listed(tmp_path: Path) -> None:
    for label in ("glioma", "pituitary", "tumor"):
        picture(tmp_path / "src" / label / "a.png", 1)
    picture(tmp_path / "src" / "glioma" / "other.png", 2)
    convert(tmp_path / "src", tmp_path / "out")
    conflicts = rows(tmp_path / "out" / "conflicts.csv")
    assert [(c["kind"], c["source"]) for c in conflicts] == [
        ("same-picture", f"{label}/a.png") for label in ("glioma", "pituitary", "tumor")
    ]


GROUPS = "path\tlabel\tsplit\tpatient_group\tpicture_group\ttumour_box_xywh\n"


def test_groups_file_wins_over_folders_and_its_columns_are_kept(src: Path, tmp_path: Path) -> None:
    groups = tmp_path / "groups.tsv"
    groups.write_text(
        GROUPS
        + "Training/glioma_tumor/a.png\tmeningioma\t-\tG1\tP1\t0.5 0.5 0.1 0.2\n"
        + "Testing/Pituitary/c.png\tpituitary\tTraining\tG1\tP2\t\n"
    )
    done = convert(src, tmp_path / "out", groups=groups)
    found = by_source(tmp_path / "out")
    first = found["Training/glioma_tumor/a.png"]
    assert (first["label"], first["split"]) == ("meningioma", "train")
    assert (first["patient_group"], first["picture_group"]) == ("G1", "P1")
    assert first["tumour_box_xywh"] == "0.5 0.5 0.1 0.2"
    assert found["Testing/Pituitary/c.png"]["split"] == "train"
    assert done.without_row == 1
    conflict = rows(tmp_path / "out" / "conflicts.csv")
    assert [(c["kind"], c["label"], c["other_labels"]) for c in conflict] == [
        ("folder-differs", "meningioma", "glioma")
    ]


def test_groups_file_cannot_replace_what_convert_measures(src: Path, tmp_path: Path) -> None:
    groups = tmp_path / "groups.csv"
    groups.write_text("path,label,rows,source\nTraining/no_tumor/b.png,no,9999,elsewhere.png\n")
    convert(src, tmp_path / "out", groups=groups)
    row = by_source(tmp_path / "out")["Training/no_tumor/b.png"]
    assert (row["rows"], tuple(row)) == ("32", MANIFEST_COLUMNS)


def test_groups_file_may_be_relative_to_a_folder_above_or_inside(src: Path, tmp_path: Path) -> None:
    above = tmp_path / "groups.csv"
    above.write_text("path,label,patient_group\nsrc/Training/no_tumor/b.png,no,G7\n./src/nowhere.png,no,G8\n")
    convert(src, tmp_path / "out", groups=above)
    assert by_source(tmp_path / "out")["Training/no_tumor/b.png"]["patient_group"] == "G7"
    inside = src / "Training" / "groups.csv"
    inside.write_text("path;label;patient_group\nno_tumor\\b.png;no;G9\n")
    done = convert(src, tmp_path / "out", groups=inside)
    assert "Training/groups.csv" not in [file.source for file in done.rejected]
    assert by_source(tmp_path / "out")["Training/no_tumor/b.png"]["patient_group"] == "G9"


def test_patient_groups_that_share_a_picture_become_one(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        picture(tmp_path / "src" / "no" / f"{name}.png", seed)
    groups = tmp_path / "groups.csv"
    groups.write_text("path,patient_group\nno/a.png,G1\nno/b.png,G2\nno/c.png,G2\n")
    done = convert(tmp_path / "src", tmp_path / "out", groups=groups)
    assert {row["patient_group"] for row in rows(tmp_path / "out" / "manifest.csv")} == {"G1"}
    assert done.merged_groups == 1


def test_audit_groups_the_mirrored_picture(tmp_path: Path) -> None:
    from tests.unit.monai_train.data.test_duplicates import head

    (tmp_path / "src" / "no").mkdir(parents=True)
    Image.fromarray(head(1)).save(tmp_path / "src" / "no" / "a.png")
    Image.fromarray(head(1)[:, ::-1].copy()).save(tmp_path / "src" / "no" / "b.png")
    Image.fromarray(head(2)).save(tmp_path / "src" / "no" / "c.png")
    convert(tmp_path / "src", tmp_path / "plain")
    assert len({row["patient_group"] for row in rows(tmp_path / "plain" / "manifest.csv")}) == 3
    convert(tmp_path / "src", tmp_path / "out", audit=True)
    a, b, c = (row["patient_group"] for row in rows(tmp_path / "out" / "manifest.csv"))
    assert a == b != c


@pytest.fixture
def dicom_src(src: Path, tmp_path: Path) -> Path:
    """Two patients, one with two series, as any PACS would give them: no class folders."""
    convert(src, tmp_path / "made")
    folder = tmp_path / "dicom"
    folder.mkdir()
    for n, row in enumerate(rows(tmp_path / "made" / "manifest.csv")):
        ds = pydicom.dcmread(tmp_path / "made" / row["path"])
        ds.PatientID = "SECRET-1" if n < 2 else "SECRET-2"
        ds.save_as(folder / f"{n}")
    return folder


@pytest.mark.parametrize("column", ["path", "series_instance_uid", "sop_instance_uid"])
def test_dicom_with_a_table_of_labels_is_taken_as_it_is(dicom_src: Path, tmp_path: Path, column: str) -> None:
    datasets = [pydicom.dcmread(dicom_src / str(n)) for n in range(3)]
    keys = {
        "path": ["0", "1", "2"],
        "series_instance_uid": [ds.SeriesInstanceUID for ds in datasets],
        "sop_instance_uid": [ds.SOPInstanceUID for ds in datasets],
    }[column]
    table = tmp_path / "labels.csv"
    table.write_text(f"{column},label\n" + "".join(f"{key},{label}\n" for key, label in zip(keys, "xyz", strict=True)))
    convert(dicom_src, tmp_path / "out", labels=table)
    found = by_source(tmp_path / "out")
    assert [found[name]["label"] for name in "012"] == ["x", "y", "z"]
    assert (tmp_path / "out" / found["0"]["path"]).read_bytes() == (dicom_src / "0").read_bytes()
    assert found["0"]["patient_group"] == found["1"]["patient_group"] != found["2"]["patient_group"]
    assert "SECRET" not in (tmp_path / "out" / "manifest.csv").read_text()


def test_row_of_one_instance_does_not_speak_for_its_series(dicom_src: Path, tmp_path: Path) -> None:
    series = "1.2.3"
    for name in "01":
        ds = pydicom.dcmread(dicom_src / name)
        ds.SeriesInstanceUID = series
        ds.save_as(dicom_src / name)
    table = tmp_path / "labels.csv"
    table.write_text(f'series_instance_uid,path,label,note\n{series},0,x,"a, b"\n{series},1,y,c\n')
    convert(dicom_src, tmp_path / "out", labels=table)
    found = by_source(tmp_path / "out")
    assert {name: (row["label"], row["note"]) for name, row in found.items()} == {"0": ("x", "a, b"), "1": ("y", "c")}


def test_another_salt_gives_another_patient_group(dicom_src: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("path,label\n0,x\n")
    convert(dicom_src, tmp_path / "a", labels=table)
    convert(dicom_src, tmp_path / "b", labels=table, salt="mine")
    assert by_source(tmp_path / "a")["0"]["patient_group"] != by_source(tmp_path / "b")["0"]["patient_group"]


def test_dicom_without_a_label_or_with_broken_pixels_is_rejected(dicom_src: Path, tmp_path: Path) -> None:
    content = (dicom_src / "2").read_bytes()
    (dicom_src / "2").write_bytes(content[:-300])
    table = tmp_path / "labels.csv"
    table.write_text("path,label\n0,x\n2,x\n")
    convert(dicom_src, tmp_path / "out", labels=table)
    rejected = {row["source"]: row["reason"] for row in rows(tmp_path / "out" / "rejected.csv")}
    assert rejected == {"1": "no-label", "2": "not-decodable"}


def refuse(*arguments: str) -> str:
    """The one line of a command that cannot start; a progress bar may stand before it."""
    result = CliRunner().invoke(app, ["convert", *arguments])
    assert isinstance(result.exception, StartError), result.output
    return result.exception.detail


def test_program_ends_with_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["monai-train", "convert", str(tmp_path / "absent"), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err == f"monai-train: {tmp_path / 'absent'} is not a folder\n"


def test_what_cannot_start_says_why(src: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    text = tmp_path / "text"
    text.mkdir()
    (text / "readme.txt").write_text("hello")
    out = str(tmp_path / "out")
    columns = tmp_path / "columns.csv"
    columns.write_text("file,class\na,b\n")
    other = tmp_path / "other.csv"
    other.write_text("path,label\nelse/where.png,no\n")
    twice = tmp_path / "twice.csv"
    twice.write_text("path,label\na.png,no\na.png,yes\n")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"path,label\n\xff\xfe\xff")
    file = tmp_path / "file"
    file.touch()
    assert "is not a folder" in refuse(str(tmp_path / "absent"), out)
    assert "holds no files" in refuse(str(empty), out)
    assert "no image that can be converted: 1 not-an-image" in refuse(str(text), out)
    assert "must not be SRC" in refuse(str(src), str(src))
    assert "cannot read" in refuse(str(src), out, "--groups", str(tmp_path / "none.csv"))
    assert "it has: file, class" in refuse(str(src), out, "--groups", str(columns))
    assert "names an image" in refuse(str(src), out, "--groups", str(other))
    assert "row 3 names an image again" in refuse(str(src), out, "--groups", str(twice))
    assert "not UTF-8" in refuse(str(src), out, "--groups", str(binary))
    assert "cannot write" in refuse(str(src), str(file / "out"))
    assert not (tmp_path / "out").exists()


def test_folder_without_a_readable_image_says_so(tmp_path: Path) -> None:
    (tmp_path / "src" / "no").mkdir(parents=True)
    (tmp_path / "src" / "no" / "a.png").write_bytes(b"broken")
    assert "no image could be read: 1 not-an-image" in refuse(str(tmp_path / "src"), str(tmp_path / "out"))
    assert not (tmp_path / "out" / "manifest.csv").exists()
    assert rows(tmp_path / "out" / "rejected.csv")[0]["source"] == "no/a.png"


def test_command_prints_a_table_and_what_it_left_out(src: Path, tmp_path: Path) -> None:
    (src / "notes.txt").write_text("hello")
    result = CliRunner().invoke(app, ["convert", str(src), str(tmp_path / "out")])
    assert result.exit_code == 0
    assert "glioma" in result.stdout
    assert "1 file rejected (1 not-an-image)" in result.stdout
    assert "identical pixels only" in result.stdout


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(src: Path, tmp_path: Path) -> None:
    Image.fromarray(np.arange(9 * 7, dtype=np.uint16).reshape(9, 7) * 60).save(
        src / "Training" / "no_tumor" / "deep.png"
    )
    Image.fromarray(np.arange(9 * 7, dtype=np.uint8).reshape(9, 7)).save(src / "Training" / "no_tumor" / "lossy.jpg")
    make_slices(src / "whole", patients=1, contrasts=["t1c"])
    convert(src, tmp_path / "out")
    lines = rows(tmp_path / "out" / "manifest.csv")
    assert len(lines) == 5 + SLICES
    for line in lines:
        path = str(tmp_path / "out" / line["path"])
        verdict = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
        assert ("MRImage" if line["series"] else "SCImage") in verdict.stderr
        assert "Error" not in verdict.stderr + verdict.stdout


def test_whole_series_stay_series_and_what_is_known_of_a_slice_is_kept(tmp_path: Path) -> None:
    make_slices(tmp_path / "src" / "whole")
    make_pictures(tmp_path / "src" / "cases")
    make_archives(tmp_path / "src" / "scans")
    picture(tmp_path / "src" / "cheng" / "glioma" / "1.png", 1)
    Image.new("L", (40, 40)).save(tmp_path / "src" / "cheng" / "glioma" / "2.png")
    Image.new("L", (40, 40)).save(tmp_path / "src" / "whole" / "P0" / "t1" / "009.png")
    done = convert(tmp_path / "src", tmp_path / "out")
    found = by_source(tmp_path / "out")
    assert len(found) == 2 * 2 * 6 + 9 + 8 + 1
    reasons = {row["source"]: row["reason"] for row in rows(tmp_path / "out" / "rejected.csv")}
    assert reasons == {"cheng/glioma/2.png": "blank-image", "whole/P0/t1/009.png": "no-row"}
    tumour = found["whole/P1/t1/004.png"]
    assert (tumour["label"], tumour["sequence"], tumour["slice_number"], tumour["slice_count"]) == (
        "glioma", "T1", "4", "6",
    )  # fmt: skip
    assert (tumour["tumour_pixels"], tumour["head_pixels"], tumour["region"]) == ("40", "5000", "brain")
    assert (tumour["plane"], tumour["dataset"], tumour["patient_group"]) == ("axial", "whole", "P1")
    mask = tmp_path / "src" / "whole" / "P1" / "mask" / "004.png"
    assert (tmp_path / "out" / tumour["mask"]).read_bytes() == mask.read_bytes()
    assert tumour["mask"] == found["whole/P1/flair/004.png"]["mask"]
    assert tumour["tumour_box_xywh"] == "0.67 0.55 0.16 0.16"
    series = {source: row["series"] for source, row in found.items() if source.startswith("whole/P1/t1/")}
    assert set(series.values()) == {str(pydicom.dcmread(tmp_path / "out" / tumour["path"]).SeriesInstanceUID)}
    assert found["whole/P1/t1/002.png"]["label"] == ""
    lesion = found["cases/tuberculoma/t2/a.png"]
    assert (lesion["label"], lesion["diagnosis"], lesion["sequence"]) == ("other", "tuberculoma", "T2")
    assert found["cheng/glioma/1.png"]["sequence"] == "T1C"
    head, knee = (found[f"scans/{name}.tar.xz/{name}/0002.dcm"] for name in ("1-head", "2-knee"))
    assert (head["label"], head["sequence"], head["region"], head["licence"]) == ("notumor", "T1", "", "MIT")
    assert (knee["label"], knee["sequence"], knee["region"], knee["slice_number"]) == ("", "T2", "other", "3")
    read = read_manifest(tmp_path / "out")
    assert {row.label for row in read} == {"glioma", "other", "notumor", ""}
    assert done.alone == {}
    assert tree_hash(tmp_path / "out") == (convert(tmp_path / "src", tmp_path / "out") and tree_hash(tmp_path / "out"))


def test_series_that_is_no_stack_is_kept_image_by_image(tmp_path: Path) -> None:
    contents = [*dicom_series("AX T2", 2, seed=1), dicom_series("AX T2", 1, seed=2)[0]]
    for number, content in enumerate(contents):
        ds = pydicom.dcmread(io.BytesIO(content))
        ds.SeriesInstanceUID = "1.2.3"  # two of them at the same position
        (tmp_path / "src").mkdir(exist_ok=True)
        ds.save_as(tmp_path / "src" / f"{number}.dcm")
    labels = tmp_path / "labels.csv"
    labels.write_text("series_instance_uid,label\n1.2.3,glioma\n")
    answer = CliRunner().invoke(app, ["convert", str(tmp_path / "src"), str(tmp_path / "out"), "--labels", str(labels)])
    assert answer.exit_code == 0
    assert "1 series without a stack of slices (1 duplicate-positions): the images stand alone" in answer.output
    assert {(row["series"], row["slice_number"]) for row in rows(tmp_path / "out" / "manifest.csv")} == {("", "")}
