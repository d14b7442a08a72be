"""Corrections over DICOM: what C-STORE answers, and what is there after a kill at any step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from sqlalchemy import select

from tests.testbed.instances import mr_instance
from tests.testbed.receiver import receiving
from worker.db.tables import ConflictRow, EarlierVersionRow, InstanceRow, SeriesRow


def _send(port: int, ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> int:
    ae = AE(ae_title="PACS")
    ae.add_requested_context(MRImageStorage, syntax)
    assoc = ae.associate("127.0.0.1", port, ae_title="AI_WORKER")
    assert assoc.is_established
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    status = assoc.send_c_store(ds).Status
    assoc.release()
    return int(status)


def test_corrections_succeed_and_conflicts_are_answered_with_a_warning(tmp_path: Path) -> None:
    with receiving(tmp_path) as (port, database):
        assert _send(port, mr_instance()) == 0x0000
        assert _send(port, mr_instance(PatientID="R1", PatientName="Right^One")) == 0x0000
        assert _send(port, mr_instance(PatientID="R1", PatientName="Right^One")) == 0x0000
        assert _send(port, mr_instance(PatientID="R1", PixelData=bytes(512))) == 0xB000
        assert _send(port, mr_instance(PatientID="R1"), ImplicitVRLittleEndian) == 0xB000
        with database.read() as session:
            [row], [earlier] = session.scalars(select(InstanceRow)), session.scalars(select(EarlierVersionRow))
            series = session.get_one(SeriesRow, row.series_id)
            reasons = set(session.scalars(select(ConflictRow.reason)))
    assert (series.patient_id, series.patient_name) == ("R1", "Right^One")
    assert dcmread(tmp_path / "data" / row.path).PatientID == "R1"
    assert dcmread(tmp_path / "data" / earlier.path).PatientID == "ID-a"
    assert reasons == {"pixels", "transfer-syntax"}


@pytest.mark.parametrize("what", ["correct", "accept", "reject", "study"])
def test_a_kill_at_any_step_leaves_what_was_or_what_is_to_be(what: str, tmp_path: Path) -> None:
    memory = Path("/dev/shm")  # a killed process loses nothing that it wrote, wherever it lies
    with TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        command = [sys.executable, "-m", "tests.testbed.killed", f"{folder}/place", what]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
    before, after = map(int, done.stdout.splitlines()[-1].split())
    assert before >= 20
    assert after >= 2
