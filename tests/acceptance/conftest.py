"""One worker and one PACS for the tests that only push series; those that stop or break a worker start their own."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed import dcmtk, phantom, site
from tests.testbed.made_once import copied
from tests.testbed.site import Site


@pytest.fixture(scope="session", autouse=True)
def _senders() -> None:
    if not dcmtk.installed():
        pytest.skip("DCMTK is not installed")


@pytest.fixture(scope="session")
def hospital(_senders: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    wide = {"COLUMNS": "250"}  # so that no table wraps a sentence
    with site.running(tmp_path_factory.mktemp("worker"), environment=wide) as running:
        yield running


@pytest.fixture
def head(tmp_path: Path) -> list[Path]:
    """A healthy head of 24 axial slices, a new study."""
    return phantom.head_series(tmp_path / "head")


@pytest.fixture(scope="session")
def long_head(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """384 slices of 212 kB, the shape of a high-resolution volume. Each worker of its own may be sent it, or a part."""
    grid = phantom.Grid(slices=384, rows=384, columns=274, pixel_mm=0.667, slice_mm=0.48)
    folder = copied("long-head", tmp_path_factory.mktemp("long"), lambda made: phantom.head_series(made, grid=grid))
    return sorted(folder.iterdir())


@pytest.fixture(params=["stand-in", "real"])
def long_series(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    """The synthetic volume, and a real one of 7 tesla."""
    if request.param == "stand-in":
        stand_in: list[Path] = request.getfixturevalue("long_head")
        return stand_in
    archive = request.getfixturevalue("brain_mri_data") / "mr-series" / "mprage-7t-t1w.tar.xz"
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    return sorted(tmp_path.rglob("*.dcm"))
