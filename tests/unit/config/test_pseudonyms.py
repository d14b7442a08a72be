"""Pseudonyms in the database: searches find them, nobody reads a patient in them, reports carry the true values."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from tests.testbed.databases import make_tables
from tests.testbed.instances import NOON, mr_instance, received
from worker.config.pseudonyms import pseudonym_of
from worker.config.sections import PrivacySection
from worker.config.settings import load_settings
from worker.db.engine import Database
from worker.db.tables import SeriesRow
from worker.db.views.search import Search, find_series
from worker.errors import StartError
from worker.send.destinations import kinds
from worker.storage.keeper import InstanceKeeper

KEY = "k" * 32


def _pseudonyms(key: str = KEY) -> PrivacySection:
    return PrivacySection.model_validate({"pseudonymise": True, "pseudonym_key": key})


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """An instance of a patient, received by a worker that stores pseudonyms."""
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}", pseudonym_of(_pseudonyms()))
    make_tables(database)
    keeper = InstanceKeeper(database, tmp_path, lambda: NOON, minimum_free_bytes=0)
    keeper.keep(received(mr_instance(PatientID="4711", PatientName="CANARY^NAME", AccessionNumber="ACC")))
    keeper.close()
    return database


def test_a_row_holds_pseudonyms_and_no_free_text(database: Database) -> None:
    with database.read() as session:
        row = session.scalars(select(SeriesRow)).one()
    assert (row.patient_name, row.series_description) == ("", "")
    assert len({row.patient_id, row.accession_number, "4711", "ACC"}) == 4
    assert len(row.patient_id) == len(row.accession_number) == 16


@pytest.mark.parametrize(
    "search", [Search(patient_id="4711"), Search(accession_number="ACC"), Search(text="4711"), Search(text="ACC")]
)
def test_a_search_for_the_true_value_finds_it(database: Database, search: Search, tmp_path: Path) -> None:
    with database.read() as session:
        assert len(find_series(session, search)) == 1
    other = Database(str(database.engine.url), pseudonym_of(_pseudonyms("o" * 32)))
    with other.read() as session:
        assert find_series(session, search) == []


def test_a_search_by_uid_finds_it_too(database: Database) -> None:
    with database.read() as session:
        [uid] = session.scalars(select(SeriesRow.series_instance_uid))
        assert len(find_series(session, Search(text=uid))) == 1
        assert find_series(session, Search(text="471")) == []


def test_the_file_keeps_the_true_values(database: Database, tmp_path: Path) -> None:
    [file] = (tmp_path / "instances").rglob("*.dcm")
    assert b"CANARY^NAME" in file.read_bytes()


def test_without_the_wish_nothing_is_replaced() -> None:
    assert pseudonym_of(PrivacySection()) is None
    pseudonym = pseudonym_of(_pseudonyms())
    assert pseudonym is not None
    assert pseudonym("") == ""


def test_a_key_is_asked_for_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[privacy]\npseudonymise = true\n")
    with pytest.raises(StartError, match="WORKER__PRIVACY__PSEUDONYM_KEY"):
        load_settings(config, kinds())
    monkeypatch.setenv("WORKER__PRIVACY__PSEUDONYM_KEY", KEY)
    settings = load_settings(config, kinds())
    assert KEY not in str(settings)
    assert pseudonym_of(settings.privacy) is not None
    monkeypatch.setenv("WORKER__PRIVACY__PSEUDONYM_KEY", "swordfish")
    with pytest.raises(StartError, match="32 characters or more") as refused:
        load_settings(config, kinds())
    assert "swordfish" not in str(refused.value)
