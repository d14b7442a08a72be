from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update

from tests.testbed.command import Run
from tests.testbed.instances import MODEL, later, mr_instance, received
from tests.testbed.web_site import fill
from worker.cli import studies
from worker.config.settings import Settings
from worker.db import models
from worker.db.engine import Database
from worker.db.tables import SeriesRow, SeriesStatus, StudyRow, StudyState
from worker.db.views import studies as views
from worker.db.views.search import Search, find_series
from worker.dicom.standard import derive_uid
from worker.storage.keeper import InstanceKeeper


def test_studies_are_listed_and_shown(run: Run, database: Database) -> None:
    fill(database)
    code, listed, _ = run("studies", "list")
    assert code == 0
    assert "4 studies" in listed
    assert "2026-03-01" in listed
    assert "20260301" not in listed
    uid = derive_uid("study", "a")
    [study] = json.loads(run("studies", "show", uid, "--format", "json")[1])
    assert (study["study_instance_uid"], study["state"]) == (uid, "open")
    shown = run("studies", "show", uid)[1]
    assert "1 study" in shown
    assert "No series contradicts another." in shown
    assert run("studies", "list", "--format", "csv")[1].startswith("study_instance_uid,patient_id,")
    assert run("studies", "show", "1.2.3")[0] == 1


def test_parked_studies_are_answered_again(run: Run, database: Database) -> None:
    fill(database)
    assert run("studies", "retry") == (0, "0 studies will be answered again\n", "")
    with database.write() as session:
        session.execute(update(StudyRow).values(state=StudyState.PARKED))
    assert run("studies", "retry", derive_uid("study", "a")) == (0, "1 study will be answered again\n", "")
    trail = run("audit", "list", "--format", "json")[1]
    assert "worker studies retry: 1 study" in trail
    assert derive_uid("study", "a") in trail


def test_every_study_is_exported_in_pages(
    run: Run, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database)
    with database.write() as session:
        session.execute(update(SeriesRow).values(patient_id="=1+1"))
    monkeypatch.setattr(views, "LARGEST_PAGE", 2)
    for suffix in ("json", "csv"):
        file = tmp_path / f"studies.{suffix}"
        assert run("studies", "export", str(file)) == (0, f"4 studies written to {file}\n", "")
    exported = json.loads((tmp_path / "studies.json").read_text())
    assert [study["study_instance_uid"] for study in exported] == [derive_uid("study", name) for name in "dcba"]
    with (tmp_path / "studies.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["patient_id"] for row in rows] == ["'=1+1"] * 4
    assert rows[3]["series"] == "- unknown glioma" or rows[3]["series"].endswith("glioma")
    assert "worker studies export" in run("audit", "list", "--format", "json")[1]


def test_an_export_that_fails_leaves_the_file_of_before(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "studies.json"
    file.write_text("[]")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(studies, "_write", full)
    code, _, error = run("studies", "export", str(file))
    assert (code, error) == (2, f"worker: cannot write {file}: No space left on device\n")
    assert [path.name for path in tmp_path.glob("studies*")] == ["studies.json"]
    assert file.read_text() == "[]"
    assert run("studies", "export", str(tmp_path / "studies.txt"))[0] == 2


def test_no_study_is_an_empty_list(run: Run, tmp_path: Path) -> None:
    assert run("studies", "export", str(tmp_path / "none.json"))[0] == 0
    assert json.loads((tmp_path / "none.json").read_text()) == []


@pytest.fixture
def refused(database: Database) -> str:
    """The refused series of the site."""
    fill(database)
    with database.read() as session:
        [series] = find_series(session, Search(status=SeriesStatus.REFUSED))
    return series.series_instance_uid


def _refused(database: Database) -> int:
    with database.read() as session:
        return len(find_series(session, Search(status=SeriesStatus.REFUSED)))


def test_a_refused_series_is_settled_again_once(run: Run, refused: str, database: Database) -> None:
    assert run("series", "reconsider", refused[-8:]) == (0, "1 series will be settled again\n", "")
    assert _refused(database) == 0
    assert run("series", "reconsider", refused) == (1, "", "worker: the series is not refused\n")
    assert run("series", "reconsider", "1.2.3.4.5")[0] == 1


def test_all_refused_series_are_settled_again(run: Run, refused: str, database: Database) -> None:
    assert run("series", "reconsider")[0] == 2
    assert run("series", "reconsider", refused, "--all-refused")[0] == 2
    assert run("series", "reconsider", "--all-refused") == (0, "1 series will be settled again\n", "")
    assert _refused(database) == 0
    assert run("series", "reconsider", "--all-refused") == (0, "0 series will be settled again\n", "")
    assert "worker series reconsider --all-refused: 1 series" in run("audit", "list", "--format", "json")[1]


def test_an_answered_series_is_classified_by_a_model_that_is_not_active(
    run: Run, database: Database, settings: Settings
) -> None:
    fill(database)
    other = replace(MODEL, version="2.0", sha256="cd" * 32)
    with database.write() as session:
        models.add_model(session, other, "ada", later(0))
        [answered] = find_series(session, Search(status=SeriesStatus.CLASSIFIED))
    uid = answered.series_instance_uid
    command = ("series", "classify", uid[-8:], "--model", f"{MODEL.name}:2.0")
    assert run(*command)[::2] == (2, f"worker: this host has no bundle {other.sha256[:12]} in its data folder\n")
    bundle = settings.worker.data_dir / "models" / other.sha256
    bundle.mkdir(parents=True)
    (bundle / "worker.json").touch()
    code, printed, _ = run(*command)
    assert code == 0
    assert printed.endswith(f"the series will be classified by {MODEL.name} 2.0\n")
    assert run(*command)[2] == f"worker: {MODEL.name} 2.0 has a job for these images already\n"
    pending = [
        job for job in json.loads(run("jobs", "list", "--format", "json")[1])["jobs"] if job["state"] == "pending"
    ]
    assert [job["series_instance_uid"] for job in pending] == [uid]


def test_a_study_is_deleted_after_a_question(run: Run, database: Database) -> None:
    fill(database)
    uid = derive_uid("study", "a")
    assert run("studies", "delete", uid)[0] == 1  # nobody answers
    assert run("studies", "delete", uid, "--yes") == (0, "deleted: 1 image, 2 files\n", "")
    assert run("studies", "delete", uid, "--yes") == (1, "", "worker: no series of such a study was received\n")
    assert "DICOM Study Deleted" in run("audit", "list", "--format", "json")[1]


def test_the_tags_of_an_image_are_shown(run: Run, settings: Settings, database: Database) -> None:
    keeper = InstanceKeeper(database, settings.worker.data_dir, lambda: later(0), 0)
    keeper.keep(received(mr_instance(1, "tagged", PatientName="Family^Given")))
    keeper.close()
    uid = derive_uid("series", "tagged")
    code, printed, _ = run("series", "tags", uid, "--format", "json")
    lines = {line["tag"]: line["value"] for line in json.loads(printed)}
    assert (code, lines["(0010,0010)"]) == (0, "Family^Given")
    assert run("series", "tags", uid, "--image", "2") == (1, "", "worker: there is no such image\n")
