"""The golden series."""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmread

from monai_train.data.dataset import read_preprocessing
from monai_train.export.golden import write_golden_series
from worker.inference.preprocess import preprocess


def test_golden_series_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_golden_series(tmp_path / folder)
    for path in sorted((tmp_path / "a").rglob("*.dcm")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_every_case_is_an_axial_series_that_the_worker_reads(tmp_path: Path) -> None:
    written = write_golden_series(tmp_path)
    assert set(written) == {"plain", "ring"}
    tensors = {}
    for name, paths in written.items():
        volume = preprocess(paths, read_preprocessing())
        assert volume.tensor.shape[0] == len(paths) == 3
        tensors[name] = volume.tensor
        datasets = [dcmread(path) for path in paths]
        assert len({ds.SeriesInstanceUID for ds in datasets}) == 1
        assert {ds.PatientID for ds in datasets} == {"SYNTHETIC"}
    assert abs(tensors["ring"] - tensors["plain"]).max() > 0.1  # the mass
