"""Images that come again: with the right patient, in another series, or with other pixels."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from tests.testbed import pacs, site
from tests.testbed.site import Site
from tests.testbed.waiting import wait_until


def _changed(paths: list[Path], folder: Path, **changes: Any) -> list[Path]:
    """Copies of files with other attributes."""
    folder.mkdir()
    copies = []
    for path in paths:
        ds = dcmread(path)
        for keyword, value in changes.items():
            setattr(ds, keyword, value)
        ds.save_as(folder / path.name)
        copies.append(folder / path.name)
    return copies


def _reports(hospital: Site, study_instance_uid: str, number: int) -> list[Dataset]:
    """The reports of a study in the PACS, the newest last, once there are so many and all is delivered."""

    def arrived() -> list[Dataset] | None:
        files = hospital.pacs.files(pacs.REPORTS, study_instance_uid)
        waiting = hospital.worker.rows("SELECT count(*) FROM delivery WHERE state <> 'delivered'")[0][0]
        return (
            [dcmread(BytesIO(content)) for content in files.values()] if len(files) >= number and not waiting else None
        )

    found = wait_until(arrived, f"{number} reports", 120)
    assert len(found) == number
    return sorted(found, key=lambda report: str(report.ContentDate) + str(report.ContentTime))


def _predecessors(report: Dataset) -> list[str]:
    return [
        document.ReferencedSOPInstanceUID
        for study in report.PredecessorDocumentsSequence
        for series in study.ReferencedSeriesSequence
        for document in series.ReferencedSOPSequence
    ]


def _series(hospital: Site, uid: str) -> tuple[Any, ...]:
    """(state, reason, patient_id, patient_name) of a series."""
    columns = "state, reason, patient_id, patient_name"
    return hospital.worker.rows(f"SELECT {columns} FROM series WHERE series_instance_uid = '{uid}'")[0]


def test_a_series_of_the_wrong_patient_is_reported_under_the_right_one(
    hospital: Site, head: list[Path], tmp_path: Path
) -> None:
    source = hospital.push(head)
    [first] = _reports(hospital, source.StudyInstanceUID, 1)
    before = hospital.worker.wait_for_result(source.SeriesInstanceUID)
    right = _changed(head, tmp_path / "right", PatientName="Right^Patient", PatientID="RIGHT-1")
    hospital.push(right[:10])  # half a correction waits for the other half
    assert _series(hospital, source.SeriesInstanceUID) == ("open", None, "RIGHT-1", "Right^Patient")
    hospital.push(right[10:])
    earlier, revised = _reports(hospital, source.StudyInstanceUID, 2)
    assert earlier.SOPInstanceUID == first.SOPInstanceUID
    assert (revised.PatientID, str(revised.PatientName)) == ("RIGHT-1", "Right^Patient")
    assert _predecessors(revised) == [first.SOPInstanceUID]
    after = hospital.worker.wait_for_result(source.SeriesInstanceUID)
    assert after["patient_id"] == "RIGHT-1"
    same = ("status", "label", "probability", "instances")
    assert [after[key] for key in same] == [before[key] for key in same]
    kept = hospital.worker.rows(
        "SELECT count(DISTINCT instance_id) FROM earlier_version JOIN series ON series.id = series_id "
        f"WHERE series_instance_uid = '{source.SeriesInstanceUID}' AND removed_at IS NULL"
    )
    assert kept == [(len(head),)]
    assert "instances were corrected" in hospital.worker.run("audit", "list", "--format", "json").stdout


def test_images_move_to_another_series_of_another_study(hospital: Site, head: list[Path], tmp_path: Path) -> None:
    source = hospital.push(head)
    [first] = _reports(hospital, source.StudyInstanceUID, 1)
    moved = hospital.push(
        _changed(
            head,
            tmp_path / "moved",
            SeriesInstanceUID=f"{source.SeriesInstanceUID[:60]}.7",
            StudyInstanceUID=f"{source.StudyInstanceUID[:60]}.8",
            PatientID="MOVED-1",
        )
    )
    [revised] = _reports(hospital, moved.StudyInstanceUID, 1)
    assert revised.PatientID == "MOVED-1"
    assert _predecessors(revised) == [first.SOPInstanceUID]
    [study] = revised.CurrentRequestedProcedureEvidenceSequence
    assert {one.SeriesInstanceUID for one in study.ReferencedSeriesSequence} == {moved.SeriesInstanceUID}
    left = wait_until(lambda: _series(hospital, source.SeriesInstanceUID)[:2] == ("refused", "moved"), "the rest", 60)
    assert left


def test_other_pixels_wait_until_somebody_decides(hospital: Site, head: list[Path], tmp_path: Path) -> None:
    source = hospital.push(head)
    [first] = _reports(hospital, source.StudyInstanceUID, 1)
    pixels = bytearray(dcmread(head[0]).PixelData)
    pixels[0] ^= 0xFF
    hospital.push(_changed(head[:1], tmp_path / "one", PixelData=bytes(pixels)), "-v")
    hospital.push(_changed(head[1:2], tmp_path / "two", PixelData=bytes(len(pixels))))

    def listed() -> list[dict[str, Any]]:
        done = hospital.worker.run("conflicts", "list", "--format", "json")
        return [one for one in json.loads(done.stdout) if one["series_instance_uid"] == source.SeriesInstanceUID]

    one, two = listed()
    assert [one["differs"], two["differs"]] == ["pixels", "pixels"]
    assert len(hospital.pacs.files(pacs.REPORTS, source.StudyInstanceUID)) == 1
    assert hospital.worker.run("conflicts", "reject", str(two["number"])).returncode == 0
    assert hospital.worker.run("conflicts", "accept", str(one["number"])).returncode == 0
    assert listed() == []
    _, revised = _reports(hospital, source.StudyInstanceUID, 2)
    assert _predecessors(revised) == [first.SOPInstanceUID]
    stored = hospital.worker.rows(
        f"SELECT path FROM instance WHERE sop_instance_uid = '{dcmread(head[0]).SOPInstanceUID}'"
    )[0][0]
    assert dcmread(hospital.worker.data / stored).PixelData == bytes(pixels)


def test_a_report_that_waits_is_replaced_by_the_revised_one_although_the_worker_dies(
    head: list[Path], tmp_path: Path
) -> None:
    with site.running(tmp_path / "worker") as hospital:
        hospital.pacs.stop()
        source = hospital.push(head)
        hospital.worker.wait_for_result(source.SeriesInstanceUID)
        hospital.push(_changed(head, tmp_path / "right", PatientName="Right^Patient", PatientID="RIGHT-1"))
        hospital.worker.kill()
        withdrawn = hospital.worker.rows("SELECT DISTINCT state, reason FROM delivery")
        assert withdrawn == [("superseded", "images-corrected")]
        hospital.pacs.start()
        hospital.worker.start()

        def arrived() -> bool:
            waiting = "SELECT count(*) FROM delivery WHERE state NOT IN ('delivered', 'superseded')"
            ended = "SELECT count(*) FROM job WHERE state = 'done'"
            return hospital.worker.rows(ended) == [(2,)] and hospital.worker.rows(waiting) == [(0,)]

        wait_until(arrived, "the revised report to arrive", 120)
        objects = [dcmread(BytesIO(content)) for content in hospital.pacs.stored.values()]
        assert [ds.PatientID for ds in objects] == ["RIGHT-1", "RIGHT-1"]  # report and picture
        assert set(hospital.pacs.receipts.values()) == {1}
        assert hospital.worker.run("jobs", "retry", "--all").returncode == 0
        assert hospital.worker.rows("SELECT count(*) FROM delivery WHERE state = 'pending'") == [(0,)]
