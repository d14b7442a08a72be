"""Unfinished jobs and deliveries are listed and retried."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import select, update

from tests.testbed.command import Run
from tests.testbed.web_site import fill
from worker.db.engine import Database
from worker.db.tables import DeliveryRow, DeliveryState, SeriesRow


@pytest.fixture
def filled(database: Database) -> None:
    """A parked job of series c, and a pending delivery of series a."""
    fill(database)


@pytest.mark.usefixtures("filled")
def test_a_parked_job_is_listed_and_retried_once(run: Run) -> None:
    listed = json.loads(run("jobs", "list", "--format", "json")[1])
    [job] = listed["jobs"]
    assert (job["state"], job["reason"]) == ("parked", "process-died")
    assert [delivery["state"] for delivery in listed["deliveries"]] == ["pending"]
    number = str(job["number"])
    assert run("jobs", "retry", number) == (0, "1 job and 0 deliveries will be retried\n", "")
    assert run("jobs", "retry", number) == (
        1,
        "0 jobs and 0 deliveries will be retried\n",
        "worker: the other jobs are not parked\n",
    )
    [job] = json.loads(run("jobs", "list", "--format", "json")[1])["jobs"]
    assert job["state"] == "pending"


@pytest.mark.usefixtures("filled")
def test_all_retries_whatever_is_parked(run: Run) -> None:
    assert run("jobs", "retry", "--all")[:2] == (0, "1 job and 0 deliveries will be retried\n")
    assert run("jobs", "retry") == (2, "", "worker: name the jobs to retry, or give --all\n")


@pytest.fixture
def failed(database: Database, config: Path) -> str:
    """A failed delivery of series a to `pacs`; `archive` is a destination that has nothing yet. The study's UID."""
    fill(database)
    with database.write() as session:
        row = session.scalar(select(DeliveryRow))
        assert row is not None
        row.state, row.reason, row.detail = DeliveryState.FAILED, "peer-unavailable", "connection refused"
    entry = '[[destination]]\nname = "{0}"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 9\n'
    config.write_text("".join(map(entry.format, ("pacs", "archive"))))
    with database.read() as session:
        return str(session.scalar(select(SeriesRow.study_instance_uid)))


def test_deliveries_are_listed_by_destination_and_sent_after_a_destination_was_mended(
    run: Run, failed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, printed, _ = run("deliveries", "list")
    assert code == 0
    assert "pacs: 1 failed, 0 waiting" in printed
    assert "ID-a" in printed
    assert "2026-03-01" in printed
    assert "connection refused: no. 1\n" in printed
    assert max(map(len, printed.splitlines())) <= 80
    [row] = json.loads(run("deliveries", "list", "--state", "failed", "--format", "json")[1])
    assert (row["number"], row["study_instance_uid"]) == (1, failed)
    assert run("deliveries", "retry", "--destination", "pacs") == (0, "1 delivery will be tried now\n", "")
    assert run("deliveries", "retry", "--destination", "pacs", "--waiting")[1] == "1 delivery will be tried now\n"
    assert run("deliveries", "retry", "7") == (
        1, "0 deliveries will be tried now\n", "worker: the others are being sent, have arrived, or do not exist\n",
    )  # fmt: skip
    assert run("deliveries", "retry") == (
        2, "", "worker: name the deliveries to retry, or give --destination or --all\n",
    )  # fmt: skip
    unknown = "worker: 'nobody' is not a [[destination]] (known: pacs, archive)\n"
    assert run("deliveries", "retry", "--destination", "nobody") == (2, "", unknown)


def test_what_arrived_is_sent_again_and_to_a_new_destination(run: Run, failed: str, database: Database) -> None:
    with database.write() as session:
        session.execute(update(DeliveryRow).values(state=DeliveryState.DELIVERED))
    assert "No delivery matches." in run("deliveries", "list")[1]
    assert run("deliveries", "resend", "--to", "pacs", "1") == (
        0, "1 delivery to pacs sent again, 0 new\n", "",
    )  # fmt: skip
    assert run("deliveries", "resend", "--to", "archive", "--study", failed)[1] == (
        "0 deliveries to archive sent again, 1 new\n"
    )
    assert run("deliveries", "resend", "--to", "archive", "--since", "2026-01-01")[1] == (
        "1 delivery to archive sent again, 0 new\n"
    )
    listed = json.loads(run("deliveries", "list", "--format", "json")[1])
    assert [(row["destination"], row["state"]) for row in listed] == [("pacs", "pending"), ("archive", "pending")]
    assert run("deliveries", "resend", "--to", "archive", "--series", "1.2")[0] == 1
    assert run("deliveries", "resend", "--to", "nobody", "1")[0] == 2
    assert run("deliveries", "resend", "--to", "archive")[0] == 2
    audited = run("audit", "list", "--format", "json")[1]
    assert f"worker deliveries resend --to archive {failed}: 1 delivery" in audited
