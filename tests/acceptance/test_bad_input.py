"""What archives really hold: each fault ends in a reason that a person understands, and the service goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import JPEG2000Lossless, MRImageStorage, generate_uid

from tests.testbed import dcmtk, phantom
from tests.testbed.raw_store import raw_store
from tests.testbed.site import Site, header
from tests.testbed.worker_process import WorkerProcess

Change = Callable[[Dataset], None]
SMALL = phantom.Grid(slices=6)


def _cut_pixels(ds: Dataset) -> None:
    ds.PixelData = ds.PixelData[: len(ds.PixelData) // 2]


def _bomb(ds: Dataset) -> None:
    ds.Rows = ds.Columns = 65535


def _bytes_that_are_not_utf8(ds: Dataset) -> None:
    ds.add_new("PatientName", "PN", b"M\xfcller^J\xf6rg")
    ds.add_new("SeriesDescription", "LO", b"Sch\xe4del \xff\xfe")


def _no_geometry(ds: Dataset) -> None:
    for keyword in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness"):
        del ds[keyword]


def _half_the_size(ds: Dataset) -> None:
    if ds.InstanceNumber % 2:
        pixels = np.ascontiguousarray(ds.pixel_array[::2, ::2])
        ds.PixelData = pixels.tobytes()
        ds.Rows, ds.Columns = pixels.shape


def _zero_spacing(ds: Dataset) -> None:
    ds.PixelSpacing = ["0", "0"]


def _blank(ds: Dataset) -> None:
    ds.PixelData = bytes(len(ds.PixelData))


# What to do to each slice, and how the series may end.
CORPUS: dict[str, tuple[Change, set[str]]] = {
    "truncated-pixels": (_cut_pixels, {"not-assessed", "failed"}),
    "no-pixel-data": (lambda ds: ds.__delitem__("PixelData"), {"not-assessed", "failed"}),
    "decompression-bomb": (_bomb, {"not-assessed", "failed"}),
    "wrong-character-set": (_bytes_that_are_not_utf8, {"classified", "not-assessed"}),
    "no-geometry": (_no_geometry, {"classified", "not-assessed"}),
    "mixed-sizes": (_half_the_size, {"not-assessed"}),
    "zero-spacing": (_zero_spacing, {"classified", "not-assessed"}),
    "blank": (_blank, {"not-assessed"}),
}


def change_all(paths: list[Path], change: Change) -> list[Path]:
    for path in paths:
        ds = dcmread(path)
        change(ds)
        ds.save_as(path)
    return paths


def assert_ends(worker: WorkerProcess, source: Dataset, statuses: set[str]) -> None:
    """The series ended as it may, with a reason where there is no class; nothing of it was lost."""
    result = worker.wait_for_result(source.SeriesInstanceUID, seconds=60)
    assert result["status"] in statuses
    assert (result["label"] is None) == (result["status"] != "classified")
    if result["status"] != "classified":
        assert result["reason"]
        assert result["detail"]  # a sentence for a person
        shown = worker.command("results", "show", source.SeriesInstanceUID)
        assert shown.exit_code == 0
        assert result["detail"] in shown.stdout


@pytest.mark.parametrize("fault", CORPUS)
def test_fault_ends_in_a_reason_and_the_service_goes_on(fault: str, hospital: Site, tmp_path: Path) -> None:
    change, statuses = CORPUS[fault]
    paths = change_all(phantom.head_series(tmp_path / "bad", grid=SMALL), change)
    good = phantom.head_series(tmp_path / "good", grid=SMALL)
    bad_source, good_source = hospital.push(paths), hospital.push(good)
    assert_ends(hospital.worker, bad_source, statuses)
    assert hospital.worker.wait_for_result(good_source.SeriesInstanceUID)["status"] in ("classified", "not-assessed")
    stored = hospital.worker.rows(
        "SELECT count(*) FROM instance JOIN series ON series.id = series_id "
        f"WHERE series_instance_uid = '{bad_source.SeriesInstanceUID}'"
    )
    assert stored == [(len(paths),)]


def test_one_slice_with_a_damaged_codestream(hospital: Site, tmp_path: Path) -> None:
    paths = phantom.head_series(tmp_path, grid=SMALL, transfer_syntax=JPEG2000Lossless)
    content = bytearray(paths[2].read_bytes())
    content[-9000:-200] = bytes(8800)
    paths[2].write_bytes(content)
    source = hospital.push(paths, "-xv")
    assert_ends(hospital.worker, source, {"classified", "not-assessed", "failed"})


@pytest.mark.parametrize("fault", ["noise", "cut short", "wrong length", "another instance", "no series"])
def test_bytes_that_do_not_parse_are_answered_with_a_failure_or_a_reason(
    fault: str, hospital: Site, tmp_path: Path
) -> None:
    (path,) = phantom.head_series(tmp_path, grid=phantom.Grid(slices=1))
    source = header(path)
    content = path.read_bytes()
    encoded = content[content.index(b"\x08\x00\x05\x00CS") :]
    uid = str(source.SOPInstanceUID)
    if fault == "noise":
        encoded = np.random.default_rng(5).bytes(20000)
    elif fault == "cut short":
        encoded = encoded[: len(encoded) // 3]
    elif fault == "wrong length":
        # The length of Series Instance UID says more than there is.
        at = encoded.index(b"\x20\x00\x0e\x00UI") + 6
        encoded = encoded[:at] + b"\xff\xff" + encoded[at + 2 :]
    elif fault == "another instance":
        uid = generate_uid()
    elif fault == "no series":
        ds = dcmread(path)
        del ds.SeriesInstanceUID
        ds.save_as(path)
        content = path.read_bytes()
        encoded = content[content.index(b"\x08\x00\x05\x00CS") :]
    status = raw_store(hospital.worker.port, MRImageStorage, uid, encoded)
    if status == 0x0000:
        assert_ends(hospital.worker, source, {"refused", "not-assessed", "failed"})
    else:
        assert status & 0xF000 in (0xA000, 0xC000)
        assert hospital.worker.result(source.SeriesInstanceUID) is None
    dcmtk.echoscu(hospital.worker.port)


def test_unknown_transfer_syntax_and_class_are_not_accepted(hospital: Site, tmp_path: Path) -> None:
    """Nothing is accepted that could not be kept as sent: the sender is told so when it asks."""
    from pynetdicom import AE

    ae = AE(ae_title="PACS")
    ae.add_requested_context(MRImageStorage, "1.2.3.4.5")
    ae.add_requested_context("1.2.840.10008.5.1.4.1.1.2")  # CT Image Storage
    ae.add_requested_context(MRImageStorage)
    assoc = ae.associate("127.0.0.1", hospital.worker.port)
    assert assoc.is_established
    assert [context.transfer_syntax[0] for context in assoc.rejected_contexts].count("1.2.3.4.5") == 1
    assert len(assoc.rejected_contexts) == 2
    assoc.release()


def test_classify_says_what_is_not_dicom(hospital: Site, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "picture.dcm").write_bytes(b"\x89PNG\r\n" + bytes(300))
    done = hospital.worker.run("classify", str(tmp_path), "--format", "json")
    assert done.returncode != 0
    assert "DICOM" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_classify_reads_past_other_files_in_the_folder(hospital: Site, tmp_path: Path) -> None:
    phantom.head_series(tmp_path, grid=SMALL)
    (tmp_path / "README.txt").write_text("made by a person")
    done = hospital.worker.run("classify", str(tmp_path), "--format", "json")
    assert done.returncode == 0, done.stderr
    assert "README.txt" in done.stderr
