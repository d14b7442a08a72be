"""An inventory holds every image once with its label, and every other file with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_train.data.images import Picture
from monai_train.data.inventory import RejectedFile, count_reasons, take_inventory
from monai_train.data.labels import read_label_file
from monai_train.data.secondary_capture import encode_secondary_capture
from worker.errors import StartError


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    return path


def save_dicom(path: Path, name: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((8, 8), np.uint8)
    path.write_bytes(encode_secondary_capture(Picture(pixels, "L", "PNG"), name, name, pixels.nbytes))
    return path


def test_first_file_that_names_an_image_beats_the_next_and_the_folder(tmp_path: Path) -> None:
    source = tmp_path / "src"
    save(source / "glioma" / "a.png")
    save(source / "glioma" / "b.png")
    first, second = tmp_path / "labels.csv", tmp_path / "groups.csv"
    first.write_text("path,label\nglioma/a.png,meningioma\n")
    second.write_text("path,label,patient_group\nglioma/a.png,notumor,P1\n")
    a, b = take_inventory(source, [read_label_file(first), read_label_file(second)]).images
    assert (a.source, a.label, a.folder_label, a.patient_group) == ("glioma/a.png", "meningioma", "glioma", "P1")
    assert (b.source, b.label, b.row, b.patient_group) == ("glioma/b.png", "glioma", None, "")


def test_dicom_takes_no_label_from_its_folder_and_its_patient_from_the_header(tmp_path: Path) -> None:
    source = tmp_path / "src"
    for name in ("a", "b"):
        save_dicom(source / "glioma" / f"{name}.dcm", name)
    first, other = take_inventory(source).images
    assert (first.is_dicom, first.label, first.folder_label) == (True, "", "")
    assert first.patient_group.startswith("patient-")
    assert first.patient_group != other.patient_group
    salted = take_inventory(source, salt="other").images[0]
    assert salted.patient_group not in ("", first.patient_group)


def test_other_files_are_rejected_with_the_reason_and_the_excluded_folder_is_skipped(tmp_path: Path) -> None:
    source = tmp_path / "src"
    save(source / "glioma" / "a.png")
    save(source / "out" / "b.png")
    (source / "notes.txt").write_text("hello")
    inventory = take_inventory(source, exclude=(source / "out").resolve())
    assert [image.source for image in inventory.images] == ["glioma/a.png"]
    assert [(file.source, file.reason) for file in inventory.rejected] == [("notes.txt", "not-an-image")]


def test_reasons_are_counted_most_frequent_first() -> None:
    files = [RejectedFile(str(n), reason, "") for n, reason in enumerate(("empty-file", "no-label", "no-label"))]
    assert count_reasons(files) == "2 no-label, 1 empty-file"
    assert count_reasons([]) == "none found"


def test_folder_without_files_and_labels_for_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="is not a folder"):
        take_inventory(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StartError, match="holds no files"):
        take_inventory(tmp_path / "empty")
    save(tmp_path / "src" / "a.png")
    (tmp_path / "labels.csv").write_text("path,label\nelsewhere.png,glioma\n")
    with pytest.raises(StartError, match="no row of the file of labels or groups names an image"):
        take_inventory(tmp_path / "src", [read_label_file(tmp_path / "labels.csv")])
