"""Every revision up and down, on both databases, with rows in it; the models and the revisions agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from tests.testbed import postgres
from tests.testbed.instances import MODEL, classified, later, new_instance
from worker.db import models, processes, tokens
from worker.db.engine import Database
from worker.db.instances import add_file_fault, add_instance, file_of, move_scrub, open_association
from worker.db.jobs import claim_job, end_job
from worker.db.migrate import alembic_config, migrate, revising
from worker.db.models import model_row
from worker.db.operating import hand_overs
from worker.db.operating.notices import News, add_notices
from worker.db.operating.suspensions import suspend
from worker.db.results import NewObject, add_result, add_shadow_result
from worker.db.series import lock_open_series, queue_series
from worker.db.studies.answering import StudySettling, add_study_result, claim_study, study_inputs
from worker.db.studies.counting import StudyCount, record_study_count
from worker.db.studies.identity import record_other_studies
from worker.db.studies.readings import NewStudyReading, add_study_reading, study_to_read
from worker.db.tables import (
    REVISION,
    AuditChainRow,
    Base,
    FileFault,
    FileKind,
    JobState,
    LoadState,
    ObjectKind,
    ReadingRow,
    Stage,
    TokenRole,
)
from worker.db.versions.conflicts import add_conflict
from worker.db.versions.corrections import correct_instances
from worker.db.views.search import Search, find_series
from worker.dicom.standard import derive_uid
from worker.errors import RefusedInstance, StartError
from worker.inference.study.fusion import EQUAL_WEIGHTS, fuse
from worker.process import ProcessRole
from worker.results import SeriesAnswer
from worker.stage_times import StageCount, StageKey
from worker.storage.refusals import Refusals, RefusedRequest

FOLDED = "0008"  # the revision of the keys of names


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        yield Database(f"sqlite:///{tmp_path / 'worker.db'}")
        return
    if postgres.programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres.running(durable=False) as url:
        database = Database(url)
        yield database
        database.close()


def _fill(database: Database) -> None:
    """A row in every table."""
    with database.write() as session:
        association = open_association(session, "PACS", "127.0.0.1", "host:1", later(0))
        model = model_row(session, MODEL, later(0)).id
        new = new_instance(1, association_id=association)
        row = add_instance(session, new, later(0))
        add_conflict(session, row, new_instance(1, sha256="11" * 32), "conflicts/x", later(0))
        series = lock_open_series(session, row.series_id, later(0))
        assert series is not None
        queue_series(session, series, model, later(0))
        job = claim_job(session, "me", model, later(1), timedelta(seconds=30))
        assert job is not None
        end_job(session, job.id, "me", JobState.DONE, later(1))
        objects = [NewObject(kind, "1.2", derive_uid(kind), f"objects/{kind}", "00" * 32) for kind in ObjectKind]
        add_result(session, job, classified([new]), {new.sop_instance_uid: row.id}, objects, ["pacs"], later(1))
        session.add(
            ReadingRow(
                series_id=row.series_id, number=1, label="x", slices=[0], comment="", reader="a", created_at=later(1)
            )
        )
        _, token = tokens.add_token(session, "a", TokenRole.ANNOTATE, later(1), None)
        holder = tokens.check_token(session, token, later(1))
        tokens.open_web_session(session, holder, later(1), later(2))
        processes.beat(session, "host:1", ProcessRole.RECEIVE, later(0), later(1))
        processes.add_stage_times(session, {StageKey("series", "read", 100): StageCount(1, 0.1)})
        candidate = model_row(session, replace(MODEL, sha256="cd" * 32, version="2.0"), later(0))
        queued = queue_series(session, series, candidate.id, later(1), shadow=True)
        assert queued is not None
        add_shadow_result(session, queued, classified(), later(1))
        models.activate_model(session, candidate.id, "somebody", later(2))
        models.record_load(session, candidate.id, "host:1", LoadState.LOADED, None, later(2))
        assert add_file_fault(session, file_of(row), FileFault.DAMAGED, later(1))
        move_scrub(session, FileKind.INSTANCE, row.id, later(1))
        session.flush()
        study = claim_study(session, "host:1", later(9), StudySettling(timedelta()), timedelta(seconds=30))
        assert study is not None
        inputs = study_inputs(session, study.study_instance_uid)
        answer = fuse([SeriesAnswer("1.2", 1, None, None, None, "x", None, {})], MODEL, EQUAL_WEIGHTS)
        record_other_studies(session, series, ["1.2.3"])
        record_study_count(session, study.study_instance_uid, "PACS", later(9), StudyCount(1, 0, 0))
        assert add_study_result(session, study.id, inputs, model, answer, later(9)) is not None
        to_read = study_to_read(session, study.study_instance_uid)
        assert to_read is not None
        add_study_reading(session, to_read, NewStudyReading("x", "a", "", to_read.result_id, 0), later(10))
        correct_instances(session, [(row, new_instance(1, sha256="22" * 32))], later(2))
        assert suspend(session, list(Stage), "somebody", later(2)) == sorted(Stage)
        add_notices(session, "on-call", [News("parked", "job 1", "job 1 is parked")], later(2))
        hand_overs.begin(session, "1.2", "ARCHIVE", "00" * 32, later(2))
        session.add(AuditChainRow(host="host", records=1, sha256="00" * 32, anchored_at=later(1)))
    refusals = Refusals(database)
    refusals.connection("network")
    fault = RefusedInstance(0xC000, "unreadable-dataset")
    refusals.refuse(fault, RefusedRequest(b"", "1.2.3", 1, "10.0.0.1"))
    refusals.write()


def test_each_revision_up_and_down_and_up_again_with_rows(database: Database) -> None:
    with revising(database) as connection:
        config = alembic_config(connection)
        revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]  # newest first
        for revision in reversed(revisions):
            command.upgrade(config, revision)
    _fill(database)
    for below in [*revisions[1:], None]:
        with revising(database) as connection:
            command.downgrade(alembic_config(connection), "-1")
        assert database.revision() == below
    with database.engine.begin() as connection:
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
    assert migrate(database) == (None, REVISION)
    _fill(database)
    assert migrate(database) == (REVISION, REVISION)


def test_every_table_is_filled_by_the_test_above(database: Database) -> None:
    migrate(database)
    _fill(database)
    with database.read() as session:
        empty = [name for name in Base.metadata.tables if session.scalar(text(f'SELECT count(*) FROM "{name}"')) == 0]
    assert empty == []


def test_models_and_revisions_agree(database: Database) -> None:
    migrate(database)
    with database.engine.begin() as connection:
        command.check(alembic_config(connection))


def test_models_and_revisions_agree_on_checks_and_partial_indexes(database: Database) -> None:
    """Alembic compares neither, and SQLite loses the checks of a table that is recreated."""

    def checks() -> set[tuple[str, str | None, str]]:
        seen = inspect(database.engine)
        return {
            (table, check["name"], check["sqltext"])
            for table in Base.metadata.tables
            for check in seen.get_check_constraints(table)
        }

    def partial_indexes() -> set[tuple[str, str | None, str]]:
        seen = inspect(database.engine)
        return {
            (table, index["name"], str(index["dialect_options"][where]))
            for table in Base.metadata.tables
            for index in seen.get_indexes(table)
            if where in index.get("dialect_options", {})
        }

    where = f"{database.engine.dialect.name}_where"
    migrate(database)
    revised, indexed = checks(), partial_indexes()
    with revising(database) as connection:
        command.downgrade(alembic_config(connection), "base")
    Base.metadata.create_all(database.engine)
    assert revised == checks() != set()
    assert indexed == partial_indexes()
    assert {table for table, *_ in indexed} == {"series", "delivery", "job"}


def test_the_revision_in_tables_is_the_head(database: Database) -> None:
    with database.engine.begin() as connection:
        assert ScriptDirectory.from_config(alembic_config(connection)).get_current_head() == REVISION


def test_a_newer_database_is_refused_in_one_line(database: Database) -> None:
    migrate(database)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for refuse in (database.require_revision, lambda: migrate(database)):
        with pytest.raises(StartError, match="install a newer worker"):
            refuse()


def test_an_empty_database_says_what_to_do(database: Database) -> None:
    with pytest.raises(StartError, match="`worker migrate`"):
        database.require_revision()


def test_the_rows_that_exist_get_their_keys_and_words(database: Database) -> None:
    """More than a batch of them, of which some share their patient."""
    number = 1203
    with revising(database) as connection:
        config = alembic_config(connection)
        below = ScriptDirectory.from_config(config).get_revision(FOLDED).down_revision
        command.upgrade(config, str(below))
        columns = "series_instance_uid, study_instance_uid, patient_id, patient_name, accession_number, study_date, "
        columns += "modality, series_description, state, status, created_at, last_received_at"
        connection.execute(
            text(
                f"INSERT INTO series ({columns}) VALUES (:uid, '1', :patient, :name, '', '', 'MR', '', 'open', "
                "'pending', '2026-03-01 12:00:00.000000', '2026-03-01 12:00:00.000000')"
            ),
            [{"uid": f"1.{n}", "patient": f"P{n // 3}", "name": f"MÜLLER{n // 3}^JÖRG"} for n in range(number)],
        )
    migrate(database)
    with database.read() as session:
        rows = session.execute(text("SELECT series_instance_uid, name_key FROM series")).all()
        assert {uid: key for uid, key in rows} == {f"1.{n}": f"müller{n // 3}^jörg" for n in range(number)}
        assert session.scalar(text("SELECT count(*) FROM search_entry")) == number // 3
        found = find_series(session, Search(text="jorg, muller400"))
    assert {answer.series_instance_uid for answer in found} == {"1.1200", "1.1201", "1.1202"}
