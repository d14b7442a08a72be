"""Series are listed, shown and exported as the database has them, and each look is on record."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from sqlalchemy import update

from tests.testbed.command import Run
from tests.testbed.studies import classify, report_study
from tests.testbed.web_site import fill
from worker.audit.verify import newest_entries
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.tables import DeliveryRow, DeliveryState
from worker.dicom.standard import derive_uid


@pytest.fixture
def filled(database: Database) -> None:
    """Series a: classified, b: refused, c: failed, d: pending."""
    fill(database)


@pytest.mark.usefixtures("filled")
def test_a_list_can_be_narrowed_by_every_criterion(run: Run) -> None:
    def listed(*arguments: str) -> list[str]:
        code, printed, _ = run("results", "list", "--format", "json", *arguments)
        assert code == 0
        return [row["patient_id"] for row in json.loads(printed)]

    assert listed() == ["ID-d", "ID-c", "ID-b", "ID-a"]
    assert listed("--limit", "2") == ["ID-d", "ID-c"]
    assert listed("--patient-id", "ID-b") == ["ID-b"]
    assert listed("--study", derive_uid("study", "c")) == ["ID-c"]
    assert listed("--series", derive_uid("series", "c")) == ["ID-c"]
    assert listed("--accession", "ACC-d") == ["ID-d"]
    assert listed("--label", "glioma", "--min-probability", "0.9") == ["ID-a"]
    assert listed("--label", "glioma", "--min-probability", "0.95") == []
    statuses = ("classified", "refused", "failed", "pending", "not-assessed")
    assert [listed("--status", status) for status in statuses] == [["ID-a"], ["ID-b"], ["ID-c"], ["ID-d"], []]
    assert listed("--since", "2026-03-02") == listed("--until", "2026-02-28") == []
    assert len(listed("--since", "2026-03-01", "--until", "2026-03-01")) == 4


@pytest.mark.usefixtures("filled")
def test_a_series_is_shown_by_the_end_of_its_uid(run: Run, settings: Settings) -> None:
    uid = derive_uid("series", "a")
    code, printed, _ = run("results", "show", f"…{uid[-8:]}", "--format", "json")
    assert (code, json.loads(printed)["series_instance_uid"]) == (0, uid)
    assert len(json.loads(printed)["slices"]) == 1
    assert [entry.event for entry in newest_entries(settings, 1)] == ["DICOM Instances Accessed"]
    assert run("results", "show", "") == (1, "", "worker: the UIDs of several series end in this\n")
    assert run("results", "show", "0.0.0") == (1, "", "worker: no such series was received\n")


@pytest.mark.usefixtures("filled")
def test_an_export_has_every_series_in_the_format_of_its_name(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    assert run("results", "export", str(file)) == (0, f"4 series written to {file}\n", "")
    with file.open() as lines:
        assert [row["status"] for row in csv.DictReader(lines)] == ["pending", "failed", "refused", "classified"]
    assert run("results", "export", str(tmp_path / "one.json"), "--label", "glioma")[0] == 0
    assert [row["label"] for row in json.loads((tmp_path / "one.json").read_text())] == ["glioma"]
    assert run("results", "export", str(tmp_path / "results.xlsx"))[0] == 2
    assert "cannot write" in run("results", "export", str(tmp_path / "nowhere" / "results.csv"))[2]


def test_what_became_of_a_studys_report_is_listed_with_its_series(run: Run, database: Database) -> None:
    classify(database, "a")
    assert "sent" not in run("results", "list")[1]  # no column: nothing was made for a destination
    report_study(database)
    assert "study 0 of 1" in _last_column(run)
    shown = run("results", "show", derive_uid("series", "a"))[1]
    assert "deliveries of the study" in shown
    assert "pending" in shown
    with database.write() as session:
        session.execute(update(DeliveryRow).values(state=DeliveryState.DELIVERED))
    assert "study 1 of 1" in _last_column(run)
    with database.write() as session:
        session.execute(update(DeliveryRow).values(state=DeliveryState.SUPERSEDED))
    assert "sent" not in run("results", "list")[1]


def _last_column(run: Run) -> str:
    lines = run("results", "list")[1].splitlines()
    start = next(line.index("sent") for line in lines if "sent" in line)
    return " ".join(line[start:].strip() for line in lines)


@pytest.mark.usefixtures("filled")
def test_deliveries_of_a_series_are_counted_in_its_line(run: Run) -> None:
    [line] = [line for line in run("results", "list")[1].splitlines() if "ID-a" in line]
    assert line.rstrip().endswith("0 of 1")
