"""Readers' findings leave for training, and become the monthly report, by command."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tests.testbed.command import Run
from tests.testbed.web_site import fill
from worker.audit.verify import newest_entries
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.readings import NewReading, add_reading
from worker.db.tables import ResultRow, SeriesRow
from worker.dicom.standard import derive_uid


def test_an_export_counts_what_it_left_out(run: Run, database: Database, tmp_path: Path) -> None:
    fill(database)
    with database.write() as session:
        for name in "ad":
            [row] = session.query(SeriesRow).filter_by(series_instance_uid=derive_uid("series", name))
            result = session.query(ResultRow.id).filter_by(series_id=row.id).scalar()  # series d has none yet
            add_reading(session, row.id, NewReading("glioma", "ada", "", (), result, 0), datetime.now(UTC))
    out = tmp_path / "confirmed"
    code, printed, error = run("readings", "export", str(out))
    assert (code, printed) == (1, f"0 series with 0 slices written to {out}\n")
    # `fill` writes rows and no files
    assert error == "worker: 1 series left out: images-damaged\nworker: 1 series left out: no-result\n"
    assert run("readings", "export", str(out)) == (2, "", f"worker: {out} is not empty\n")


def test_the_report_of_a_month_is_written_and_on_record(run: Run, database: Database, settings: Settings) -> None:
    fill(database)
    code, printed, _ = run("report", "--month", "2026-03")
    page = Path(printed.strip())
    assert (code, page.is_relative_to(settings.worker.data_dir)) == (0, True)
    assert "2026-03" in page.read_text()
    assert [entry.event for entry in newest_entries(settings, 1)] == ["Export"]
    assert run("report", "--month", "2026-13")[0] != 0
