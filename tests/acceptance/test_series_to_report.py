"""A series goes in over DICOM, a report and a picture come back: the main job, with real senders and receivers."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import UID, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless, generate_uid

from tests.testbed import dcmtk, multiframe, orthanc, pacs, phantom, site, worker_process
from tests.testbed.site import Answer, Site
from tests.testbed.waiting import patience, wait_until
from worker.stage_times import STAGES

# storescu proposes a compressed syntax only when told which.
PROPOSE = {JPEGLosslessSV1: "-xs", JPEGLSLossless: "-xt", JPEG2000Lossless: "-xv", RLELossless: "-xr"}


def assert_answers(answer: Answer, source: Dataset) -> None:
    """One report and one picture, in the source's study but in series of their own, about the source's images."""
    assert len(answer.reports) == len(answer.pictures) == 1
    (report,) = (dcmread(BytesIO(content)) for content in answer.reports.values())
    (picture,) = (dcmread(BytesIO(content)) for content in answer.pictures.values())
    for produced in (report, picture):
        assert produced.StudyInstanceUID == source.StudyInstanceUID
        assert produced.SeriesInstanceUID != source.SeriesInstanceUID
        assert produced.PatientID == source.PatientID
    assert report.VerificationFlag == "UNVERIFIED"
    referenced = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert {one.SeriesInstanceUID for one in referenced} == {source.SeriesInstanceUID}
    assert picture.get("BurnedInAnnotation", "NO") == "NO"  # absent where the source does not tell
    assert picture.pixel_array.std() > 5


@pytest.mark.parametrize("mass", [False, True], ids=["healthy", "mass"])
def test_head_comes_back_with_a_report_and_a_picture(mass: bool, hospital: Site, tmp_path: Path) -> None:
    source = hospital.push(phantom.head_series(tmp_path, mass=mass))
    result = hospital.worker.wait_for_result(source.SeriesInstanceUID)
    assert result["status"] in ("classified", "not-assessed")
    assert (result["label"] is not None) == (result["status"] == "classified")
    assert result["study_instance_uid"] == source.StudyInstanceUID
    assert result["patient_id"] == source.PatientID
    assert result["model"]
    assert result["created_at"]
    if result["status"] == "classified":
        assert sum(result["probabilities"].values()) == pytest.approx(1, abs=1e-3)
        kinds = [value for name, value in result["probabilities"].items() if name != "notumor"]
        expected = result["probabilities"].get(result["label"], sum(kinds))  # of "tumor", that of any kind
        assert result["probability"] == pytest.approx(expected)
    else:
        assert result["reason"]
    assert_answers(hospital.answer(source), source)


def test_metrics_have_the_times_of_all_stages_of_all_roles(hospital: Site, tmp_path: Path) -> None:
    hospital.answer(hospital.push(phantom.head_series(tmp_path, grid=phantom.Grid(slices=5))))
    token = hospital.worker.run("tokens", "add", "--role", "read").stdout.strip()
    sample = re.compile(r'^mri_worker_stage_seconds_count{stage="(\w+)",work="(\w+)"} (\S+)', re.MULTILINE)
    report_of_study = {
        ("study", stage) for stage in ("read", "report", "picture", "write")
    }  # [report] level = "series"
    expected = {(work, stage) for work, stages in STAGES.items() for stage in stages} - report_of_study

    def all_are_counted() -> bool:
        headers = {"Authorization": f"Bearer {token}"}
        answer = httpx.get(
            f"http://127.0.0.1:{hospital.worker.web_port}/metrics", headers=headers, timeout=patience(30)
        )
        return {(work, stage) for stage, work, number in sample.findall(answer.text) if float(number)} >= expected

    wait_until(all_are_counted, "the next heartbeat of each role", seconds=30)


def test_a_study_is_answered_once_and_again_when_a_series_comes_late(hospital: Site, tmp_path: Path) -> None:
    """A head, a knee in the wrong folder, and then a late head: two answers, the second of all three series."""
    study = str(generate_uid())
    small = phantom.Grid(slices=5)

    def push(name: str, number: int, **attributes: str) -> str:
        of_study = {"StudyInstanceUID": study, "SeriesNumber": number, **attributes}
        source = hospital.push(phantom.head_series(tmp_path / name, grid=small, attributes=of_study))
        hospital.worker.wait_for_result(source.SeriesInstanceUID)
        return str(source.SeriesInstanceUID)

    def answers(number: int) -> list[tuple[str, str | None, str | None, str]] | None:
        rows = hospital.worker.rows(
            "SELECT r.status, r.label, r.reason, r.contributions FROM study_result r JOIN study s ON s.id = r.study_id "
            f"WHERE s.study_instance_uid = '{study}' AND s.state = 'answered' ORDER BY r.number"
        )
        return rows if len(rows) == number else None

    head, knee = push("head", 4), push("knee", 5, BodyPartExamined="KNEE")
    # The knee may settle after the study of the head alone was answered.
    first = wait_until(lambda: answers(1) or answers(2), "the study to be answered", seconds=60)
    late = push("late", 6)
    rows = wait_until(lambda: answers(len(first) + 1), "the study to be answered again", seconds=60)
    contributions = json.loads(rows[-1][3])
    assert [item["answer"]["series"] for item in contributions] == [head, knee, late]
    assert [item["answer"]["number"] for item in contributions] == [4, 5, 6]
    assert contributions[1]["answer"]["reason"] == "body-part"
    results = [hospital.worker.result(uid) for uid in (head, late)]
    if {result["label"] for result in results if result} == {results[0] and results[0]["label"]} != {None}:
        assert rows[-1][1] == (results[0] or {})["label"]
    shown = json.loads(hospital.worker.run("studies", "show", study, "--format", "json").stdout)
    assert [(item["state"], item["revision"], len(item["series"])) for item in shown] == [("answered", len(rows), 3)]


def test_long_volume_is_answered_with_every_slice_in_evidence(hospital: Site, long_series: list[Path]) -> None:
    assert len(long_series) == 384
    source = hospital.push(long_series)
    answer = hospital.answer(source, seconds=200)
    assert_answers(answer, source)
    report = dcmread(BytesIO(next(iter(answer.reports.values()))))
    (series,) = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert len(series.ReferencedSOPSequence) == 384


@pytest.mark.parametrize("transfer_syntax", PROPOSE, ids=lambda uid: UID(uid).keyword)
def test_compressed_series_gives_the_same_result_as_the_plain_one(
    transfer_syntax: UID, hospital: Site, tmp_path: Path
) -> None:
    plain = hospital.push(phantom.head_series(tmp_path / "plain", mass=True))
    paths = phantom.head_series(tmp_path / "compressed", mass=True, transfer_syntax=transfer_syntax)
    assert {site.header(path).file_meta.TransferSyntaxUID for path in paths} == {transfer_syntax}
    compressed = hospital.push(paths, PROPOSE[transfer_syntax])
    expected = hospital.worker.wait_for_result(plain.SeriesInstanceUID)
    result = hospital.worker.wait_for_result(compressed.SeriesInstanceUID)
    same = ("status", "label", "reason", "probability", "probabilities")
    assert {key: result[key] for key in same} == {key: expected[key] for key in same}
    assert_answers(hospital.answer(compressed), compressed)


@pytest.mark.parametrize("kind", ["enhanced", "colour"])
def test_other_storage_classes_are_answered(kind: str, hospital: Site, tmp_path: Path) -> None:
    paths = [multiframe.enhanced_head(tmp_path)] if kind == "enhanced" else phantom.colour_series(tmp_path)
    source = hospital.push(paths)
    assert_answers(hospital.answer(source), source)


def test_repeated_series_changes_nothing(hospital: Site, head: list[Path]) -> None:
    source = hospital.push(head)
    first = hospital.answer(source)
    hospital.push(head)
    hospital.push(head[3:5])
    other = hospital.push(phantom.head_series(head[0].parent.parent / "other"))
    hospital.answer(other)  # it settled after the repetition, so the repetition has settled too
    assert hospital.answer(source) == first
    assert {hospital.pacs.receipts[uid] for uid in (*first.reports, *first.pictures)} == {1}


def test_several_senders_at_once_are_all_answered(hospital: Site, tmp_path: Path) -> None:
    series = [phantom.head_series(tmp_path / str(n), grid=phantom.Grid(slices=8), seed=n) for n in range(4)]
    with ThreadPoolExecutor(4) as senders:
        sources = list(senders.map(hospital.push, series))
    for source in sources:
        assert_answers(hospital.answer(source), source)


@pytest.mark.skipif(orthanc.program() is None, reason="Orthanc is not installed")
def test_orthanc_pushes_a_series_and_keeps_the_report_unchanged(tmp_path: Path) -> None:
    port = dcmtk.free_port()
    with orthanc.running(tmp_path / "orthanc", port) as server:
        destinations = {"pacs": (server.ae_title, server.port)}
        with worker_process.running(tmp_path / "worker", destinations=destinations, port=port) as worker:
            paths = phantom.head_series(tmp_path / "head", mass=True)
            source = site.header(paths[0])
            server.upload(paths)
            assert server.echo_worker()
            server.send_series(source.SeriesInstanceUID)
            result = worker.wait_for_result(source.SeriesInstanceUID)
            assert result["status"] in ("classified", "not-assessed")
            produced = wait_until(
                lambda: (
                    (found := server.files(pacs.REPORTS + pacs.PICTURES, source.StudyInstanceUID))
                    and (found if len(found) == 2 else None)
                ),
                "report and picture in Orthanc",
            )
            held = {}
            for path in (worker.folder / "var" / "objects").rglob("*.dcm"):
                held[str(site.header(path).SOPInstanceUID)] = dcmread(path)
            assert held.keys() == produced.keys()
            for uid, content in produced.items():
                assert dcmread(BytesIO(content)) == held[uid]
            assert worker.stop() == 0
