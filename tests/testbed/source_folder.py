"""A folder of pictures with the tables that public sets of whole series have, made of synthetic heads."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import dcmread
from pydicom.uid import generate_uid

from monai_train.data.images import Picture
from monai_train.data.sources.slice_series import SlicePlace, encode_slice
from tests.testbed.converted import SIZE, head

SLICES = 6
TUMOUR = (3, 4)  # the slices with a tumour; 2 and 5 lie between


def write_table(path: Path, rows: Sequence[Mapping[str, object]], delimiter: str = "\t") -> None:
    lines = [delimiter.join(rows[0]), *(delimiter.join(str(value) for value in row.values()) for row in rows)]
    path.write_text("".join(f"{line}\n" for line in lines))


def save(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_slices(folder: Path, patients: int = 2, contrasts: Sequence[str] = ("t1", "flair")) -> Path:
    """Whole series of patients with a tumour, slice numbers from 1, with masks: slices.tsv."""
    generator = np.random.default_rng(5)
    rows: list[dict[str, object]] = []
    for patient in (f"P{number}" for number in range(patients)):
        for contrast in contrasts:
            for number in range(1, SLICES + 1):
                shown = number in TUMOUR
                path = f"{patient}/{contrast}/{number:03d}.png"
                save(folder / path, head("glioma" if shown else "notumor", generator))
                label = "glioma" if shown else ("" if number in (2, 5) else "notumor")
                rows.append(
                    {"path": path, "label": label, "patient_group": patient, "contrast": contrast, "slice": number,
                     "slices": SLICES, "tumour_px": 40 if shown else 0, "head_px": 5000,
                     "tumour_box_xywh": "0.67 0.55 0.16 0.16" if shown else ""}
                )  # fmt: skip
        for number in TUMOUR:
            save(folder / f"{patient}/mask/{number:03d}.png", np.eye(SIZE, dtype=np.uint8) * 255)
    write_table(folder / "slices.tsv", rows)
    return folder


def make_pictures(folder: Path) -> Path:
    """Single pictures by diagnosis and contrast: pictures.tsv."""
    generator = np.random.default_rng(6)
    rows: list[dict[str, object]] = []
    for diagnosis, label in (("astrocytoma", "glioma"), ("tuberculoma", "other"), ("normal", "notumor")):
        for contrast in ("t1", "t1c", "t2"):
            path = f"{diagnosis}/{contrast}/a.png"
            save(folder / path, head("glioma" if label != "notumor" else label, generator))
            rows.append(
                {"path": path, "label": label, "diagnosis": diagnosis, "contrast": contrast,
                 "picture_cluster": f"F{len(rows)}"}
            )  # fmt: skip
    write_table(folder / "pictures.tsv", rows)
    return folder


def dicom_series(description: str, count: int = 4, seed: int = 1) -> list[bytes]:
    """The files of a series of heads whose headers name it so."""
    generator = np.random.default_rng(seed)
    series, files = generate_uid(entropy_srcs=[description, str(seed)]), []
    for number in range(1, count + 1):
        picture = Picture(head("notumor", generator), "L", "PNG")
        place = SlicePlace(description, description, description, "", number, 5.0)
        ds = dcmread(io.BytesIO(encode_slice(picture, place, f"{number}", 1)))
        ds.SeriesInstanceUID, ds.SeriesDescription, ds.ContrastBolusAgent = series, description, None
        stream = io.BytesIO()
        ds.save_as(stream)
        files.append(stream.getvalue())
    return files


def make_archives(folder: Path) -> Path:
    """A healthy head and a knee as tar.xz of DICOM files: series.csv."""
    rows: list[dict[str, object]] = []
    for name, description, expected in (
        ("1-head", "AX T1 SE", "classified notumor"),
        ("2-knee", "SAG T2 knee", "refused or not assessed"),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / f"{name}.tar.xz", "w:xz") as tar:
            for number, content in enumerate(dicom_series(description, seed=len(rows) + 1)):
                member = tarfile.TarInfo(f"{name}/{number:04d}.dcm")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        rows.append({"file": f"{name}.tar.xz", "what": description, "expected": expected, "licence": "MIT"})
    write_table(folder / "series.csv", rows, ",")
    return folder
