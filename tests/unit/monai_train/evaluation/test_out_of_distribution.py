"""Pictures that are no brain: readable by the worker, the same every time; and what a bundle declines is counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from monai_train.data.manifest import ManifestRow
from monai_train.evaluation.evaluate import Evidence, Measurement, examine_bundle
from monai_train.evaluation.out_of_distribution import (
    KINDS,
    PictureSource,
    check_out_of_distribution,
    write_synthetic_images,
)
from tests.testbed.tiny_bundle import make_tiny_bundle
from worker.errors import StartError
from worker.inference.aggregate import in_distribution
from worker.inference.bundle import load_bundle


@dataclass(frozen=True)
class Made:
    folder: Path
    rows: list[ManifestRow]
    bundle: Path
    measured: Measurement
    evidence: Evidence


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    rows = write_synthetic_images(folder)
    bundle = make_tiny_bundle(tmp_path_factory.mktemp("bundle"))
    return Made(folder, rows, bundle, *examine_bundle(bundle, folder, rows))


def test_made_pictures_are_of_every_kind_all_different_and_the_same_every_time(made: Made, tmp_path: Path) -> None:
    again = write_synthetic_images(tmp_path)
    assert Counter(row.dataset for row in again) == dict.fromkeys(KINDS, 20)
    contents = [(tmp_path / row.path).read_bytes() for row in again]
    assert contents == [(made.folder / row.path).read_bytes() for row in made.rows]
    assert len({content[-65536:] for content in contents}) == len(again)
    assert made.measured.to_json()["unreadable"] == {}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_something_to_see(kind: str) -> None:
    pixels = KINDS[kind](np.random.default_rng(0))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (256, 256)
    assert np.ptp(pixels) > 40


def test_check_counts_what_the_bundle_declines(made: Made, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "one.dcm").write_bytes(b"not DICOM")
    check = check_out_of_distribution(made.bundle, "int8", made.evidence.features, made.measured.slices, tmp_path)
    accepted = in_distribution(made.evidence.features, load_bundle(made.bundle))
    assert (check.n, check.accepted) == (len(made.rows), int(accepted.sum()))
    ours = [kind for kind in check.kinds if kind.source is PictureSource.SYNTHETIC]
    assert sum(kind.n for kind in ours) == len(made.rows)
    assert sum(kind.n - kind.declined for kind in ours) == int(accepted.sum())
    broken = [kind for kind in check.kinds if kind.source is not PictureSource.SYNTHETIC]
    assert [(kind.source, kind.n, kind.declined, kind.not_assessed) for kind in broken] == [
        (PictureSource.REAL, 1, 1, 1),
        (PictureSource.SERIES, 1, 1, 1),
    ]
    assert check.points_outside.shape == (len(made.rows), 2)


def test_a_folder_without_dicom_is_an_error(made: Made, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"no \.dcm"):
        check_out_of_distribution(made.bundle, "int8", made.evidence.features, made.measured.slices, tmp_path)
