"""Unfinished jobs and deliveries are listed and retried."""

from __future__ import annotations

import json

import pytest

from tests.testbed.command import Run
from tests.testbed.web_site import fill
from worker.db.engine import Database


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
    assert run("jobs", "retry", number) == (0, "1 jobs and 0 deliveries will be retried\n", "")
    assert run("jobs", "retry", number) == (
        1,
        "0 jobs and 0 deliveries will be retried\n",
        "worker: the other jobs are not parked\n",
    )
    [job] = json.loads(run("jobs", "list", "--format", "json")[1])["jobs"]
    assert job["state"] == "pending"


@pytest.mark.usefixtures("filled")
def test_all_retries_whatever_is_parked(run: Run) -> None:
    assert run("jobs", "retry", "--all")[:2] == (0, "1 jobs and 0 deliveries will be retried\n")
    assert run("jobs", "retry") == (2, "", "worker: name the jobs to retry, or give --all\n")
