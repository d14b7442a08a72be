"""The findings of `worker doctor` about the processes on this host and others."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.databases import make_tables
from tests.testbed.instances import MODEL, new_instance
from worker.config.notify import NotifySection
from worker.config.routing import RouteSection
from worker.config.sections import DatabaseSection, ReceiveSection, WorkerSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.instances import add_file_fault, add_instance, file_of
from worker.db.models import activate_model, add_model, shadow_model
from worker.db.operating.notices import News, add_notices, claim_notices, end_notices
from worker.db.operating.suspensions import suspend
from worker.db.processes import beat
from worker.db.tables import FileFault, Stage
from worker.ops import doctor
from worker.ops.doctor import (
    _clock,
    _models,
    _notices,
    _process_statuses,
    _processes,
    _stored_files,
    _suspended,
    _web,
    examine,
    examine_role,
)
from worker.process import ProcessRole, process_name

NOW = datetime.now(UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        worker=WorkerSection(data_dir=tmp_path, lease_seconds=30, bundle=tmp_path / "absent"),
        receive=ReceiveSection(host="127.0.0.1", port=1),
        database=DatabaseSection(url=f"sqlite:///{tmp_path}/worker.db"),
    )


@pytest.fixture
def database(settings: Settings) -> Database:
    database = Database(settings.database.url)
    make_tables(database)
    return database


def _beat(database: Database, name: str, role: ProcessRole, ago: float = 0) -> None:
    with database.write() as session:
        beat(session, name, role, NOW, NOW - timedelta(seconds=ago))


def test_a_role_is_well_while_it_runs_on_this_host(settings: Settings, database: Database) -> None:
    _beat(database, "elsewhere:1", ProcessRole.INFER)
    assert not examine_role(settings, ProcessRole.INFER, NOW).well
    _beat(database, process_name(), ProcessRole.INFER)
    assert examine_role(settings, ProcessRole.INFER, NOW).well
    assert not examine_role(settings, ProcessRole.INFER, NOW + timedelta(seconds=31)).well


def test_a_receiver_must_listen_too(settings: Settings, database: Database) -> None:
    _beat(database, process_name(), ProcessRole.RECEIVE)
    assert examine_role(settings, ProcessRole.RECEIVE, NOW).detail == "port 1 does not accept connections"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listening = settings.model_copy(update={"receive": ReceiveSection(host="127.0.0.1", port=port)})
        assert examine_role(listening, ProcessRole.RECEIVE, NOW).well


def test_a_lost_host_is_named_with_what_to_do(settings: Settings, database: Database) -> None:
    assert _processes(_process_statuses(settings, NOW)).detail == "none is running"
    _beat(database, process_name(), ProcessRole.WEB)
    assert _processes(_process_statuses(settings, NOW)).well
    _beat(database, "elsewhere:1", ProcessRole.SEND, ago=60)
    finding = _processes(_process_statuses(settings, NOW))
    assert not finding.well
    assert finding.detail.startswith(f"web on {socket.gethostname()}; not seen: send on elsewhere since 20")
    assert finding.advice


def test_without_tables_no_role_runs(settings: Settings) -> None:
    assert "worker migrate" in examine_role(settings, ProcessRole.SEND, NOW).detail


def test_damaged_files_and_a_folder_that_is_gone_are_named(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    assert _stored_files(settings).well
    (tmp_path / "instances").mkdir()
    with database.write() as session:
        file = file_of(add_instance(session, new_instance(), NOW))
    assert _stored_files(settings).well
    with database.write() as session:
        add_file_fault(session, file, FileFault.DAMAGED, NOW)
    assert _stored_files(settings).detail == "1 damaged"
    (tmp_path / "instances").rmdir()
    finding = _stored_files(settings)
    assert not finding.well
    assert "missing below the data folder" in finding.detail


def test_a_model_is_awaited_once_the_service_has_activated_another(settings: Settings, database: Database) -> None:
    settings = settings.model_copy(update={"route": (RouteSection(name="all", models=["absent"]),)})
    with database.write() as session:
        row, _ = add_model(session, MODEL, "ada", NOW)
        shadow_model(session, row.id, "ada", NOW)
    assert "routes" not in [finding.subject for finding in _models(settings)]
    with database.write() as session:
        activate_model(session, row.id, "ada", NOW)
    assert [finding.detail for finding in _models(settings) if finding.subject == "routes"] == [
        "rule 'all' chooses absent, which is not active"
    ]


@pytest.mark.parametrize(
    ("web", "well"),
    [
        ({}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "10.0.0.5"}, False),
        ({"host": "0.0.0.0", "tls_certificate": "a.pem", "tls_key": "b.pem"}, True),
        ({"host": "0.0.0.0", "trusted_proxies": ["10.0.0.1"]}, True),
    ],
)
def test_a_web_port_that_the_network_reaches_without_tls_is_a_finding(web: dict[str, Any], well: bool) -> None:
    finding = _web(Settings.model_validate({"web": web}))
    assert finding.well is well
    assert ("tls_certificate" in finding.advice) is not well


def test_every_check_runs_whatever_another_finds(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_arguments: object) -> None:
        raise KeyError("CANARY")

    for check in ("folders", "listeners", "tls_files", "host_names", "syslog_server"):
        monkeypatch.setattr(doctor, check, fail)
    findings = list(examine(settings, None, NOW))
    assert [finding.subject for finding in findings] == [
        "configuration", "folders", "database", "ports", "TLS files", "configured bundle", "web interface", "peers",
        "syslog server",
    ]  # fmt: skip
    assert findings[1].detail.startswith("the check failed: KeyError at ")
    assert not any("CANARY" in finding.detail for finding in findings)
    assert not (tmp_path / "worker.db").exists(), "a check creates no database"


def test_a_database_of_an_earlier_revision_or_away_is_a_line_and_the_rest_is_checked(
    settings: Settings, database: Database
) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    by_subject = {finding.subject: finding for finding in examine(settings, None, NOW)}
    assert by_subject["database"].detail == "the database is at revision 0001: run `worker migrate`"
    assert "models" in by_subject["not checked"].detail
    assert "configured bundle" in by_subject
    away = settings.model_copy(
        update={"database": DatabaseSection(url="postgresql+psycopg://nowhere.invalid/worker?connect_timeout=2")}
    )
    by_subject = {finding.subject: finding for finding in examine(away, None, NOW)}
    assert not by_subject["database"].well
    assert by_subject["database"].advice == "check [database] url and start the server"
    assert "web port" in by_subject


def test_a_clock_that_was_set_back_is_told(database: Database) -> None:
    assert _clock(database, NOW).well
    with database.write() as session:
        add_instance(session, new_instance(), NOW + timedelta(days=2))
    finding = _clock(database, NOW)
    assert not finding.well
    assert finding.detail.startswith(f"now is {NOW:%Y-%m-%d %H:%M} UTC, but the newest image came at ")


def test_a_suspended_stage_is_a_fault_that_says_how_to_resume(database: Database) -> None:
    with database.write() as session:
        suspend(session, [Stage.DELIVERIES], "night shift", datetime(2026, 3, 1, tzinfo=UTC))
    [finding] = _suspended(database)
    assert (finding.subject, finding.well, finding.advice) == ("deliveries", False, "worker resume deliveries")
    assert finding.detail == "suspended since 2026-03-01 00:00 UTC by night shift"


def test_a_channel_that_takes_no_notices_is_named(settings: Settings, database: Database) -> None:
    channels = tuple(NotifySection(name=name, url="https://chat.example/") for name in ("chat", "mute"))
    with database.write() as session:
        add_notices(session, "mute", [News("parked", "job 1", "job 1 is parked")], NOW)
        [row] = claim_notices(session, "mute", "me", NOW, timedelta(seconds=9), 9)
        waiting = {"state": "pending", "reason": "not-accepted", "detail": "mute answered HTTP 500"}
        end_notices(session, [row.id], "me", waiting)
    well, bad = _notices(settings.model_copy(update={"notify": channels}), database)
    assert (well.subject, well.well) == ("notify chat", True)
    assert (bad.well, bad.detail) == (False, "1 notice not sent: mute answered HTTP 500")
