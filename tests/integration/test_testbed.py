"""The test bed itself: what the other tests rely on must be what it claims to be."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from tests.testbed import dcmtk, multiframe, orthanc, pacs, phantom
from tests.testbed.pacs import Behaviour, Pacs

needs_dcmtk = pytest.mark.skipif(not dcmtk.installed(), reason="DCMTK is not installed")
needs_orthanc = pytest.mark.skipif(orthanc.program() is None, reason="Orthanc is not installed")
needs_dciodvfy = pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools is not installed")

SMALL = phantom.Grid(slices=3)


@needs_dciodvfy
@pytest.mark.parametrize("kind", ["head", "localizer", "epi", "mosaic", "colour", "enhanced"])
def test_every_kind_of_series_is_valid_dicom(kind: str, tmp_path: Path) -> None:
    made = {
        "head": lambda: phantom.head_series(tmp_path, mass=True, grid=SMALL),
        "localizer": lambda: phantom.localizer(tmp_path),
        "epi": lambda: phantom.epi_series(tmp_path, slices=3),
        "mosaic": lambda: phantom.mosaic_series(tmp_path, tiles=2),
        "colour": lambda: phantom.colour_series(tmp_path, slices=3),
        "enhanced": lambda: [multiframe.enhanced_head(tmp_path, grid=SMALL)],
    }[kind]()
    for path in made:
        assert "Error" not in dcmtk.run("dciodvfy", path, check=False)


def test_slices_lie_where_their_geometry_says(tmp_path: Path) -> None:
    slices = [dcmread(path) for path in phantom.head_series(tmp_path, grid=phantom.Grid(slices=24))]
    positions = np.array([ds.ImagePositionPatient for ds in slices], dtype=float)
    assert np.allclose(np.diff(positions, axis=0), [0, 0, 6], atol=1e-3)
    assert len({ds.SeriesInstanceUID for ds in slices}) == 1
    assert len({ds.SOPInstanceUID for ds in slices}) == 24


def test_mass_is_a_bright_rim_round_a_dark_core() -> None:
    grid = phantom.Grid(slices=24)
    index = round((phantom.MASS_CENTRE_MM - phantom.HEAD_CENTRE_MM)[2] / grid.slice_mm + (grid.slices - 1) / 2)
    column, row = ((phantom.MASS_CENTRE_MM - grid.position(index))[:2] / grid.pixel_mm).round().astype(int)
    healthy, marked = (
        [pixels.astype(float) for pixels in phantom.slice_pixels(grid, mass=mass)][index] for mass in (False, True)
    )
    window = np.s_[row - 30 : row + 30, column - 30 : column + 30]
    assert marked[row - 5 : row + 5, column - 5 : column + 5].mean() < 0.6 * healthy[window].mean()
    assert marked[window].max() > 1.2 * healthy[window].max()


def test_every_plane_shows_the_head(tmp_path: Path) -> None:
    for plane in phantom.PLANES:
        (pixels,) = phantom.slice_pixels(phantom.Grid(slices=1, plane=plane))
        assert 0.15 < (pixels > 200).mean() < 0.6


@needs_dcmtk
@pytest.mark.parametrize(
    "transfer_syntax",
    [
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
        JPEGLosslessSV1,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    ],
    ids=lambda uid: UID(uid).keyword,
)
def test_encoded_series_holds_the_same_pixels(transfer_syntax: UID, tmp_path: Path) -> None:
    expected = list(phantom.slice_pixels(SMALL))
    paths = phantom.head_series(tmp_path, grid=SMALL, transfer_syntax=transfer_syntax)
    for path, pixels in zip(paths, expected, strict=True):
        ds = dcmread(path)
        assert ds.file_meta.TransferSyntaxUID == transfer_syntax
        assert np.array_equal(ds.pixel_array, pixels)


def test_malformed_patient_attributes_reach_the_file_as_written(tmp_path: Path) -> None:
    (path,) = phantom.head_series(tmp_path, grid=phantom.Grid(slices=1), attributes=phantom.MALFORMED_PATIENT)
    content = path.read_bytes()
    for value in ("Jane_Doe", "1966-01-01", "75 kg"):
        assert value.encode() in content


@pytest.fixture(scope="module")
def small_series(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return phantom.head_series(tmp_path_factory.mktemp("small"), grid=SMALL)


@pytest.fixture
def stand_in() -> Iterator[Pacs]:
    with Pacs() as running:
        yield running


@needs_dcmtk
def test_stand_in_pacs_keeps_what_it_accepts(stand_in: Pacs, small_series: list[Path]) -> None:
    dcmtk.echoscu(stand_in.port, called="PACS")
    for _ in range(2):
        dcmtk.storescu(stand_in.port, small_series, called="PACS")
    stored = stand_in.files((MRImageStorage,))
    assert len(stored) == 3
    assert set(stand_in.receipts.values()) == {2}
    assert stand_in.files(pacs.REPORTS) == {}


@needs_dcmtk
@pytest.mark.parametrize("behaviour", [Behaviour.REFUSE, Behaviour.ABORT])
def test_stand_in_pacs_can_refuse_and_abort(behaviour: Behaviour, stand_in: Pacs, small_series: list[Path]) -> None:
    stand_in.behaviour = behaviour
    with pytest.raises(RuntimeError, match="storescu exited"):
        dcmtk.storescu(stand_in.port, small_series, called="PACS")
    assert stand_in.stored == {}
    stand_in.stop()
    with pytest.raises(RuntimeError, match="storescu exited"):
        dcmtk.storescu(stand_in.port, small_series, called="PACS")


@needs_orthanc
def test_orthanc_pushes_a_series_and_gives_it_back(tmp_path: Path, stand_in: Pacs, small_series: list[Path]) -> None:
    source = dcmread(small_series[0])
    with orthanc.running(tmp_path, stand_in.port, worker_ae_title="PACS") as server:
        server.upload(small_series)
        assert server.echo_worker()
        server.send_series(source.SeriesInstanceUID)
        stored = server.files((MRImageStorage,), source.StudyInstanceUID)
        server.stop()
        server.start()  # what it holds outlives a restart
        assert server.files((MRImageStorage,), source.StudyInstanceUID) == stored
    assert stored[source.SOPInstanceUID] == small_series[0].read_bytes()
    assert stand_in.files((MRImageStorage,)).keys() == stored.keys()
