"""Which slices of a confirmed series get its label, and that every slice stays for judging whole series."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from monai_train.data.from_worker import SLICES_WITHOUT, convert_export, summary
from monai_train.data.images import Picture
from monai_train.data.secondary_capture import encode_secondary_capture
from worker.errors import StartError

COLUMNS = ("path", "label", "series", "ordinal", "marked", "deciding", "in_distribution", "answer", "dataset")


class Export:
    """A folder as `worker readings export` writes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[dict[str, str]] = []
        (folder / "images").mkdir(parents=True)

    def add_series(
        self, name: str, label: str, answer: str, slices: int, marked: str = "", deciding: str = "", outside: str = ""
    ) -> None:
        """`marked`, `deciding` and `outside`: the ordinals of such slices, as digits."""
        for ordinal in range(slices):
            path = f"images/{name}/{ordinal:04d}.dcm"
            (self.folder / path).parent.mkdir(exist_ok=True)
            pixels = np.random.default_rng(len(self.lines)).integers(0, 255, (16, 16), dtype=np.uint8)
            content = encode_secondary_capture(Picture(pixels, "L", "PNG"), path, path, pixels.nbytes)
            (self.folder / path).write_bytes(content)
            flags = [
                "yes" if present else ""
                for present in (str(ordinal) in marked, str(ordinal) in deciding, str(ordinal) not in outside)
            ]
            values = (path, label, name, str(ordinal), *flags, answer, "site")
            self.lines.append(dict(zip(COLUMNS, values, strict=True)))

    def write(self) -> Path:
        with (self.folder / "labels.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(self.lines)
        return self.folder


@pytest.fixture
def export(tmp_path: Path) -> Export:
    return Export(tmp_path / "export")


def labelled(folder: Path, out: Path) -> list[tuple[str, int, str]]:
    """(series, ordinal, truth) of every line of the manifest."""
    lines = convert_export(folder, out).manifest
    assert all(bool(line["label"]) == bool(line["truth"]) for line in lines)
    return [(line["series"], int(line["ordinal"]), line["truth"]) for line in lines if line["truth"]]


def test_only_the_slices_whose_label_follows_are_labelled(export: Export, tmp_path: Path) -> None:
    export.add_series("marked", "glioma", "glioma", 4, marked="12", deciding="0")
    export.add_series("deciding", "glioma", "meningioma", 3, deciding="01")
    export.add_series("missed", "meningioma", "notumor", 3, deciding="0")
    export.add_series("healthy", "notumor", "glioma", 3, outside="1")
    assert sorted(labelled(export.write(), tmp_path / "out")) == [
        ("deciding", 0, "deciding"),
        ("deciding", 1, "deciding"),
        ("healthy", 0, "series"),
        ("healthy", 2, "series"),
        ("marked", 1, "marked"),
        ("marked", 2, "marked"),
    ]
    with (tmp_path / "out" / "series.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 4 + 3 + 3 + 3
    with (tmp_path / "out" / "manifest.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 4 + 3 + 3  # whole series, but not the one without a known slice
    assert {line["label"] for line in lines if line["series"] == "missed"} == {"meningioma"}


def test_slices_without_a_tumour_are_spread_evenly_over_the_series(export: Export, tmp_path: Path) -> None:
    export.add_series("healthy", "notumor", "notumor", 3 * SLICES_WITHOUT)
    ordinals = [ordinal for _, ordinal, _ in sorted(labelled(export.write(), tmp_path / "out"))]
    assert len(ordinals) == SLICES_WITHOUT
    assert (ordinals[0], ordinals[-1]) == (0, 3 * SLICES_WITHOUT - 1)
    assert {b - a for a, b in pairwise(ordinals)} <= {3, 4}


def test_summary_counts_the_slices_by_truth(export: Export, tmp_path: Path) -> None:
    export.add_series("marked", "glioma", "glioma", 2, marked="0")
    export.add_series("healthy", "notumor", "notumor", 2)
    (export.folder / "left-out.csv").write_text("series,reason\n")
    done = convert_export(export.write(), tmp_path / "out")
    assert done.rejected == []
    assert summary(done, tmp_path / "out") == [
        "slices by how their label is known: 1 marked, 2 series",
        f"whole series: {tmp_path / 'out' / 'series.csv'}",
    ]


def test_what_is_no_export_or_has_no_label_is_refused(export: Export, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"has no labels\.csv: write the folder with `worker readings export`"):
        convert_export(tmp_path, tmp_path / "out")
    export.add_series("missed", "glioma", "notumor", 2)
    with pytest.raises(StartError, match="no slice of the confirmed series has a known label"):
        convert_export(export.write(), tmp_path / "out")
    (export.folder / "labels.csv").write_text("path,label\nimages/missed/0000.dcm,glioma\n")
    with pytest.raises(StartError, match="was not written by `worker readings export`"):
        convert_export(export.folder, tmp_path / "out")
