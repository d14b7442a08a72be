"""A converted folder with synthetic heads of four classes, as `monai-train convert` would leave it."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from monai_train.data.images import Picture
from monai_train.data.labels import Classes
from monai_train.data.secondary_capture import encode_secondary_capture

CLASSES = Classes.named(("glioma", "meningioma", "pituitary", "notumor"))
COLUMNS = (
    "path",
    "label",
    "split",
    "patient_group",
    "picture_group",
    "source",
    "source_sha256",
    "rows",
    "columns",
    "dataset",
    "label_conflict",
    "tumour_box_xywh",
)
_MASS = {"glioma": (0.35, 0.1, 0.16), "meningioma": (-0.4, -0.3, 0.1), "pituitary": (0.0, 0.45, 0.08)}
SIZE = 96


def head(label: str, generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A symmetrical head [96, 96] with the mass of its class, whose place tells the class."""
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    radius = np.hypot(x / 0.75, y / 0.9)
    image = np.where(radius < 1, 90 + 30 * np.cos(8 * np.abs(x)) * np.cos(7 * y), 0.0)
    if label in _MASS:
        across, down, size = _MASS[label]
        image[np.hypot(x - across, y - down) < size] = 230
    return np.clip(image + generator.normal(0, 4, image.shape) * (radius < 1), 0, 255).astype(np.uint8)


def box_of(label: str) -> str:
    """The tumour's box as the groups file writes it."""
    if label not in _MASS:
        return ""
    across, down, size = _MASS[label]
    return f"{(across + 1) / 2:.2f} {(down + 1) / 2:.2f} {size:.2f} {size:.2f}"


def make_converted(folder: Path, patients: int = 12, external: int = 4) -> Path:
    """`patients` a class with two pictures each, and `external` pictures of tumour and none of another data set."""
    generator = np.random.default_rng(3)
    lines = []
    for label in CLASSES.names:
        for patient in range(patients):
            group = f"{label}-{patient}"
            lines += [_picture(folder, label, label, group, f"{group}-{k}", "main", generator) for k in range(2)]
    for index in range(external):
        for label, said in (("glioma", "tumor"), ("notumor", "notumor")):
            group = f"outside-{label}-{index}"
            lines.append(_picture(folder, label, said, group, group, "outside", generator))
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    return folder


def _picture(
    folder: Path, label: str, said: str, group: str, name: str, dataset: str, generator: np.random.Generator
) -> dict[str, str]:
    pixels = head(label, generator)
    sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()
    source = f"{dataset}/{said}/{name}.png"
    path = folder / "images" / f"{name}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_secondary_capture(Picture(pixels, "L", "PNG"), sha256, source, pixels.nbytes))
    values = (
        path.relative_to(folder).as_posix(), said, "", group, name, source, sha256, str(SIZE), str(SIZE), dataset, "",
        box_of(label) if said == label else "",
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def with_sequences(data: Path, folder: Path) -> Path:
    """The pictures of a folder that `make_converted` made, as axial T1C slices of brain, in series of a patient's."""
    folder.mkdir()
    (folder / "images").symlink_to(data / "images")
    lines = list(csv.DictReader((data / "manifest.csv").read_text().splitlines()))
    patients: dict[str, int] = {}
    for line in lines:
        patients[line["patient_group"]] = number = patients.get(line["patient_group"], 0) + 1
        line |= {"sequence": "T1C", "region": "brain", "plane": "axial"}
        line |= {"series": line["patient_group"], "slice_number": str(number), "slice_count": "2"}
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    return folder
