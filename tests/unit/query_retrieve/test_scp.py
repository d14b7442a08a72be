"""Answers to C-FIND over a database of pseudonyms, and who counts as a host."""

from __future__ import annotations

from pathlib import Path

from pydicom import Dataset

from tests.testbed.answered import answer
from tests.testbed.databases import make_tables
from worker.config.pseudonyms import pseudonym_of
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.dicom.odd_values import add_value
from worker.dicom.standard import derive_uid
from worker.query_retrieve.identifiers import read_find_identifier
from worker.query_retrieve.scp import QueryRetrieveScp


def test_a_true_patient_id_is_found_and_answered_where_the_database_has_pseudonyms(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {"worker": {"data_dir": tmp_path}, "privacy": {"pseudonymise": True, "pseudonym_key": "k" * 32}}
    )
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}", pseudonym_of(settings.privacy))
    make_tables(database)
    for series in "ab":
        answer(database, tmp_path, series, 1)
    ds = Dataset()
    for keyword, value in {"QueryRetrieveLevel": "STUDY", "PatientID": "ID-a", "PatientName": ""}.items():
        add_value(ds, keyword, value)
    responses = QueryRetrieveScp(settings, database)._find(read_find_identifier(ds, "STUDY"))
    [found] = [response for response in responses if response is not None]
    assert (found.PatientID, found.PatientName) == ("ID-a", "Family^a")
    database.close()


def test_a_value_that_cannot_be_read_is_as_good_as_absent(tmp_path: Path) -> None:
    settings = Settings.model_validate({"worker": {"data_dir": tmp_path}})
    database = Database(f"sqlite:///{tmp_path / 'worker.db'}")
    make_tables(database)
    answer(database, tmp_path, "a", 1)
    [file] = (tmp_path / "instances").rglob("*.dcm")
    rows = b"\x28\x00\x10\x00US"
    assert rows + b"\x02\x00\x10\x00" in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(rows + b"\x02\x00\x10\x00", rows + b"\x01\x00\x10"))
    ds = Dataset()
    study, series = derive_uid("study", "a"), derive_uid("series", "a")
    keys = {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": study, "SeriesInstanceUID": series}
    for keyword, value in {**keys, "Rows": "", "Columns": ""}.items():
        add_value(ds, keyword, value)
    responses = QueryRetrieveScp(settings, database)._find(read_find_identifier(ds, "STUDY"))
    [found] = [response for response in responses if response is not None]
    assert (found.Rows, found.Columns) == (None, 16)
    database.close()


def test_nobody_may_retrieve_by_default(tmp_path: Path) -> None:
    peer = {"ae_title": "X", "host": "127.0.0.1", "port": 104}
    settings = Settings.model_validate({"peer": [peer]})
    assert QueryRetrieveScp(settings, Database(f"sqlite:///{tmp_path / 'worker.db'}")).handlers() == []
