"""A study from Orthanc and back: one report and one picture, revised once for a late series."""

from __future__ import annotations

import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import generate_uid

from tests.testbed import dcmtk, orthanc, pacs, phantom, validators, worker_process
from tests.testbed.orthanc import Orthanc
from tests.testbed.waiting import wait_until
from tests.testbed.worker_process import WorkerProcess

QUIET_SECONDS = 4  # longer than Orthanc takes from one series to the next
SETTINGS = {
    "receive": {"quiet_seconds": QUIET_SECONDS},
    "study": {"quiet_seconds": QUIET_SECONDS},
    "report": {"level": "study"},
}
GRID = phantom.Grid(slices=12, slice_mm=12)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WorkerProcess, Orthanc]]:
    """A worker that reports to the Orthanc from which its series come."""
    if orthanc.program() is None:
        pytest.skip("Orthanc is not installed")
    port = dcmtk.free_port()
    folder = tmp_path_factory.mktemp("clinic")
    with orthanc.running(folder / "orthanc", port) as archive:
        destinations = {"pacs": (archive.ae_title, archive.port)}
        with worker_process.running(
            folder / "worker", destinations=destinations, settings=SETTINGS, port=port
        ) as worker:
            yield worker, archive


def head(folder: Path, study: str, number: int, description: str, **options: Any) -> list[Path]:
    attributes = {"StudyInstanceUID": study, "SeriesNumber": number, "SeriesDescription": description}
    return phantom.head_series(folder, grid=GRID, attributes=attributes | options.pop("own", {}), **options)


def knee(folder: Path, study: str, number: int) -> list[Path]:
    """A knee localizer in the folder of a head."""
    paths = phantom.knee_series(folder, slices=6)
    for path in paths:
        ds = dcmread(path)
        ds.StudyInstanceUID, ds.SeriesNumber, ds.ImageType = study, number, ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        dcmwrite(path, ds)
    return paths


def reports(archive: Orthanc, study: str) -> list[Dataset]:
    """The reports of a study, as Orthanc stores them, oldest first."""
    found = [dcmread(BytesIO(content)) for content in archive.files(pacs.REPORTS, study).values()]
    return sorted(found, key=lambda report: int(report.InstanceNumber))


def identifiers(report: Dataset) -> list[str]:
    """The tracking identifiers of the measurement groups."""
    texts = [item for item in report.iterall() if item.keyword == "TextValue"]
    return [str(item.value) for item in texts if str(item.value).startswith(("AI study", "series ", "AI key slice"))]


def settled(worker: WorkerProcess, number: int) -> bool:
    worker.require_alive()
    unfinished = (
        "SELECT (SELECT count(*) FROM study WHERE state != 'answered') + "
        "(SELECT count(*) FROM delivery WHERE state != 'delivered')"
    )
    [(answers,)] = worker.rows("SELECT count(*) FROM study_result")
    return answers >= number and worker.rows(unfinished)[0][0] == 0


def test_orthanc_gets_one_report_and_one_picture_of_a_study_and_a_revision_for_a_late_series(
    clinic: tuple[WorkerProcess, Orthanc], tmp_path: Path
) -> None:
    worker, archive = clinic
    study = generate_uid()
    without_agent = {"ContrastBolusAgent": None}
    paths = head(tmp_path / "t1", study, 2, "AX T1", mass=True, own=without_agent)
    paths += head(tmp_path / "t1c", study, 5, "AX T1 POST", mass=True)
    paths += head(tmp_path / "flair", study, 3, "AX FLAIR", mass=True, flair=True)
    paths += knee(tmp_path / "knee", study, 9)
    archive.upload(paths)
    archive.send_study(study)
    wait_until(lambda: settled(worker, 1), "the study to be answered and delivered", 240)
    time.sleep(QUIET_SECONDS + 1)

    [report] = reports(archive, study)
    [picture] = archive.files(pacs.PICTURES, study).values()
    assert (report.SeriesDescription, report.VerificationFlag) == ("AI brain MRI summary", "UNVERIFIED")
    assert str(report.PatientName) == str(dcmread(paths[0]).PatientName)
    told = identifiers(report)
    assert told[:5] == [
        "AI study classification", "series 2: AX T1", "series 3: AX FLAIR", "series 5: AX T1 POST", "series 9: SAG T1",
    ]  # fmt: skip
    for judge in validators.REPORT_JUDGES:
        if validators.missing(judge) is None:
            (tmp_path / "report.dcm").write_bytes(archive.files(pacs.REPORTS, study)[report.SOPInstanceUID])
            assert judge(tmp_path / "report.dcm") == [], judge.__name__
    (tmp_path / "picture.dcm").write_bytes(picture)
    assert dcmread(tmp_path / "picture.dcm").Columns == 1280
    if validators.missing(validators.dciodvfy) is None:
        assert validators.dciodvfy(tmp_path / "picture.dcm") == []

    late = head(tmp_path / "late", study, 6, "AX T1 POST late", mass=True)
    archive.upload(late)
    archive.send_series(str(dcmread(late[0]).SeriesInstanceUID))
    wait_until(lambda: settled(worker, 2), "the revised answer to be delivered", 240)
    time.sleep(QUIET_SECONDS + 1)
    first, second = reports(archive, study)
    assert first.SOPInstanceUID == report.SOPInstanceUID
    assert second.SeriesInstanceUID == first.SeriesInstanceUID
    [documents] = second.PredecessorDocumentsSequence
    [series] = documents.ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence] == [first.SOPInstanceUID]
    assert "series 6: AX T1 POST late" in identifiers(second)
    assert len(archive.files(pacs.PICTURES, study)) == 2
    assert worker.rows("SELECT count(*) FROM study_result") == [(2,)]
    assert worker.rows("SELECT count(*) FROM object WHERE study_result_id IS NULL") == [(0,)]
