"""A database of an earlier worker, of revision 0003 with rows in every table, migrated and read by today's code.

On PostgreSQL its rows are copied into the schema of revision 0003.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import JSON, Boolean, DateTime, MetaData, text

from tests.testbed import postgres
from tests.testbed.instances import later, new_instance
from worker.audit.recorder import audit_faults
from worker.audit.verify import newest_entries, verify_trails
from worker.config.sections import AuditSection, WorkerSection
from worker.config.settings import Settings
from worker.db import models, readings, tokens
from worker.db.deliveries import claim_deliveries
from worker.db.engine import Database
from worker.db.instances import add_instance, kept_files, open_associations
from worker.db.jobs import retry_parked_jobs
from worker.db.migrate import alembic_config, migrate, revising
from worker.db.processes import list_processes
from worker.db.series import queue_series
from worker.db.settling import CountPolicy, series_to_settle
from worker.db.tables import REVISION, Base, SeriesRow, TokenRole
from worker.db.views import archive, model_comparison, queue, totals
from worker.db.views.archive_matching import Keys
from worker.db.views.search import Search, SeriesAnswer, find_series
from worker.db.views.series_detail import find_report, find_series_detail, latest_slices
from worker.db.views.tallies import count_by_status
from worker.dicom.standard import derive_uid
from worker.storage.refusals import refused_associations, refused_instances

HERE = Path(__file__).parent
HOST = "earlier-host"
TOKEN, REVOKED = "bmw_0a1b2c3d4e5f_reader-of-revision-0003", "bmw_f5e4d3c2b1a0_revoked-of-revision-0003"
COOKIE = "session-of-revision-0003"
LEASE = timedelta(seconds=30)


def _restore(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript((HERE / "revision_0003.sql").read_text(encoding="utf-8"))


def _copy_to_postgresql(file: Path, database: Database) -> None:
    """Fill a database that has the schema of revision 0003 and no rows."""
    with revising(database) as connection:
        command.upgrade(alembic_config(connection), "0003")
    schema = MetaData()
    with closing(sqlite3.connect(file)) as source, database.engine.begin() as target:
        source.row_factory = sqlite3.Row
        schema.reflect(target)
        for table in schema.sorted_tables:
            if table.name == "alembic_version":
                continue
            rows = [dict(row) for row in source.execute(f'SELECT * FROM "{table.name}"')]
            kinds = {column.name: column.type for column in table.columns}
            target.execute(
                table.insert(),
                [{name: _value(value, kinds[name]) for name, value in row.items()} for row in rows],
            )
            if "id" in table.columns:
                target.execute(text(f"SELECT setval('{table.name}_id_seq', (SELECT max(id) FROM \"{table.name}\"))"))


def _value(value: Any, kind: Any) -> Any:
    """What SQLite stores as text or a number, as PostgreSQL's type takes it."""
    if value is None:
        return None
    if isinstance(kind, JSON):
        return json.loads(value)
    if isinstance(kind, Boolean):
        return bool(value)
    if isinstance(kind, DateTime):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    return value


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """The earlier database, brought to today's revision."""
    file = tmp_path / "earlier.db"
    _restore(file)
    if request.param == "sqlite":
        database = Database(f"sqlite:///{file}")
        assert migrate(database) == ("0003", REVISION)
        yield database
        database.close()
        return
    if postgres.programs() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres.running(durable=False) as url:
        database = Database(url)
        _copy_to_postgresql(file, database)
        assert migrate(database) == ("0003", REVISION)
        yield database
        database.close()


def _uid(series: str) -> str:
    return derive_uid("series", series)


def test_every_table_of_that_revision_has_rows(tmp_path: Path) -> None:
    _restore(tmp_path / "earlier.db")
    with closing(sqlite3.connect(tmp_path / "earlier.db")) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        empty = [name for name in names if not connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]]
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("0003",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert empty == []
    assert len(names) == 20


def test_the_database_is_accepted_and_complete(database: Database) -> None:
    database.require_revision()
    with database.read() as session:
        for name in Base.metadata.tables:
            session.execute(text(f'SELECT * FROM "{name}"')).all()
        assert len(kept_files(session)) == 12  # 8 instances, 3 objects, 1 conflict


def test_the_list_of_results(database: Database) -> None:
    with database.read() as session:
        answers = find_series(session, Search())
        by_status = {status: tally.number for status, tally in count_by_status(session, Search()).items()}
        assert find_series(session, Search(text="ID-a")) == answers[-1:]
    assert [(answer.status, answer.label, answer.reason) for answer in answers] == [
        ("pending", None, None),
        ("failed", None, "process-died"),
        ("refused", None, "modality"),
        ("not-assessed", None, "out-of-distribution"),
        ("classified", "glioma", None),
    ]
    assert by_status == {"classified": 1, "not-assessed": 1, "refused": 1, "failed": 1, "pending": 1}
    _check_classified(answers[-1])


def _check_classified(answer: SeriesAnswer) -> None:
    assert answer.series_instance_uid == _uid("a")
    assert (answer.patient_name, answer.accession_number, answer.study_date) == ("Family^a", "ACC-a", "20260301")
    assert (answer.probability, answer.model, answer.model_sha256) == (0.9, "test-model 2.0", "cd" * 32)
    assert (answer.instances, answer.missing) == (3, "1 of 4 images")
    assert (answer.received_at, answer.created_at) == (later(10), later(33))
    assert (answer.reading, answer.read_as) == ("confirmed", "glioma")
    deliveries = {(delivery.destination, delivery.object): delivery for delivery in answer.deliveries}
    assert {key: (delivery.state, delivery.commitment) for key, delivery in deliveries.items()} == {
        ("pacs", "report"): ("delivered", "confirmed"),
        ("pacs", "picture"): ("delivered", "requested"),
        ("pacs", "key-objects"): ("delivered", "requested"),
        ("research", "report"): ("pending", None),
        ("research", "picture"): ("pending", None),
    }
    assert deliveries["pacs", "report"].delivered_at == later(37)
    assert deliveries["research", "report"].reason == "peer-unavailable"


def test_the_details_of_a_series(database: Database) -> None:
    with database.read() as session:
        detail = find_series_detail(session, _uid("a"))
        parked = find_series_detail(session, _uid("d"))
        report = find_report(session, _uid("a"))
        slices = latest_slices(session, _uid("a"))
    assert detail is not None
    assert detail.picture == "objects/picture.dcm"
    assert detail.open_job is None
    assert [shown.file for shown in detail.slices] == [f"instances/a/{number}.dcm" for number in (1, 2, 3)]
    assert [shown.position_mm for shown in detail.slices] == [0, 5, 10]
    assert [shown.in_distribution for shown in detail.slices] == [True, True, False]
    activation = detail.slices[1].activation
    assert activation is not None
    assert (activation.rows, activation.top, activation.height) == ([[0, 128], [255, 64]], 0.1, 0.5)
    assert [(shown.sop_instance_uid, shown.deciding) for shown in slices] == [
        (derive_uid("instance", "a", str(number)), number == 2) for number in (1, 2, 3)
    ]
    assert parked is not None
    assert parked.open_job == (4, "parked")
    assert report is not None
    assert (report.path, report.study_instance_uid) == ("objects/report.dcm", derive_uid("study", "a"))


def test_the_readings_and_their_uses(database: Database) -> None:
    with database.read() as session:
        answered = readings.series_to_read(session, _uid("a"))
        assert answered is not None
        read = readings.readings_of(session, answered.series_id)
        [for_training] = readings.read_series(session)
        [judged] = readings.judged_answers(session, later(0), later(3600))
        given = readings.given_answers(session, later(0), later(3600))
    assert [(reading.number, reading.label, reading.reader, reading.state) for reading in read] == [
        (2, "glioma", "bo", "confirmed"),
        (1, "notumor", "ada", "corrected"),
    ]
    assert (read[0].comment, read[0].slices, read[0].model) == ("second look", (1,), "test-model 2.0")
    assert (answered.label, answered.classes, answered.slices) == ("glioma", ("glioma", "notumor"), 3)
    assert (for_training.label, for_training.marked, len(for_training.slices)) == ("glioma", (1,), 3)
    assert (judged.reader_label, judged.label, judged.patient) == ("glioma", "glioma", "ID-a")
    assert sorted((answer.slices, answer.outside, answer.distance) for answer in given) == [(1, 0, None), (3, 1, 0.25)]
    with database.write() as session:
        new = readings.NewReading("notumor", "ada", "", (), answered.result_id, after=2)
        assert readings.add_reading(session, answered.series_id, new, later(4000)).number == 3


def test_tokens_and_sessions_are_valid_as_before(database: Database) -> None:
    with database.write() as session:
        holder = tokens.check_token(session, TOKEN, later(500))
        assert (holder.name, holder.role) == ("ward", TokenRole.ANNOTATE)
        assert tokens.check_web_session(session, COOKIE, later(500)).name == "ward"
        with pytest.raises(tokens.NotAllowed, match="revoked"):
            tokens.check_token(session, REVOKED, later(500))
        assert [(token.name, token.revoked_at) for token in tokens.list_tokens(session)] == [
            ("ward", None),
            ("former", later(110)),
        ]
        with pytest.raises(tokens.NotAllowed, match="token-name"):
            tokens.add_token(session, "former", TokenRole.READ, later(500), None)


def test_the_audit_trail_agrees_with_its_anchor(database: Database, tmp_path: Path) -> None:
    settings = Settings(worker=WorkerSection(data_dir=tmp_path), audit=AuditSection(source=HOST))
    settings.audit_dir.mkdir(parents=True)
    file = settings.audit_dir / f"{HOST}-000000000001.audit"
    shutil.copyfile(HERE / "revision_0003.audit", file)
    [verdict] = verify_trails(settings, database)
    assert (verdict.host, verdict.records, verdict.anchored, verdict.fault) == (HOST, 3, 3, None)
    assert [(entry.number, entry.outcome) for entry in newest_entries(settings, 2)] == [(3, "ok"), (2, "ok")]
    with database.read() as session:
        assert audit_faults(session) == []
    file.write_bytes(file.read_bytes().replace(b"SCANNER", b"SCANNED"))
    [verdict] = verify_trails(settings, database)
    assert verdict.fault is not None
    assert "record 2 was edited" in verdict.fault


def test_the_models_and_undoing_an_activation(database: Database) -> None:
    with database.read() as session:
        active, in_shadow = models.models_in_use(session)
        states = {model.version: (model.state, model.state_by) for model in model_comparison.model_statuses(session)}
        faults = model_comparison.load_faults(session)
        comparison = model_comparison.compare_models(session, active[0], in_shadow[0])
    assert [row.version for row in active] == ["2.0"]
    assert [row.version for row in in_shadow] == ["3.0"]
    assert states == {"1.0": ("retired", "ada"), "2.0": ("active", "ada"), "3.0": ("shadow", "bo")}
    assert faults == {"ef" * 32: f"{HOST}: golden case 'x' differs"}
    assert (comparison.n, comparison.agree, comparison.read) == (1, 1, 1)
    with database.write() as session:
        assert [row.version for row in models.undo_activation(session, "ada", later(500))] == ["1.0"]


def test_the_archive_the_queue_and_the_totals(database: Database) -> None:
    with database.read() as session:
        studies = archive.match_studies(session, Keys(patient_names=("family^a",)))
        objects = archive.match_instances(session, Keys(modalities=("SR", "OT", "KO")))
        unfinished = queue.find_unfinished(session)
        numbers = totals.RunningTotals().read(session)
        instances, associations = refused_instances(session), refused_associations(session)
        processes = list_processes(session, later(215), LEASE)
        assert [row.id for row in open_associations(session)] == [2]
    assert [(study.series, study.instances, study.modalities) for study in studies] == [
        (4, 6, ("KO", "MR", "OT", "SR"))
    ]
    assert {produced.path for produced in objects} == {
        f"objects/{kind}.dcm" for kind in ("report", "picture", "key-objects")
    }
    assert [(job.number, job.state) for job in unfinished.jobs] == [(4, "parked")]
    assert [delivery.destination for delivery in unfinished.deliveries] == ["research", "research"]
    assert (numbers.instances_received, numbers.series_received) == (8, 5)
    assert numbers.results == {("test-model 2.0", "glioma"): 1, ("test-model 2.0", "not-assessed"): 1}
    assert numbers.deliveries["pacs"].commitments == {"due": 0, "requested": 2}
    assert (instances["0xA700", "no-space"], associations["network"]) == (3, 1)
    assert [(process.name, process.role, process.lost) for process in processes] == [(f"{HOST}:5", "receive", False)]


def test_work_resumes(database: Database) -> None:
    """The open series settles and is queued, parked work is retried, and a new series gets the next id."""
    with database.read() as session:
        due = series_to_settle(session, later(900), timedelta(seconds=10), timedelta(seconds=60), CountPolicy())
    assert [series_id for series_id, _ in due] == [5]
    with database.write() as session:
        job = queue_series(session, session.get_one(SeriesRow, 5), 2, later(900))
        assert job is not None
        assert job.id == 5
        assert retry_parked_jobs(session, [], later(900)) == [4]
        claimed = claim_deliveries(session, "research", "host:1", later(900), LEASE)
        assert [produced.path for _, produced in claimed] == ["objects/report.dcm", "objects/picture.dcm"]
        assert add_instance(session, new_instance(1, "f"), later(900)).series_id == 6
