from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.testbed.databases import make_tables
from tests.testbed.instances import mr_instance, received
from worker.config.sections import DatabaseSection, WorkerSection
from worker.config.settings import Settings
from worker.db.engine import Database, client_address
from worker.db.instances import instances_of, open_association
from worker.db.series_status import unfinished_counts
from worker.errors import StartError
from worker.ops.backup import back_up, restore_backup
from worker.storage.keeper import InstanceKeeper


def _settings(folder: Path) -> Settings:
    return Settings(
        worker=WorkerSection(data_dir=folder / "var"), database=DatabaseSection(url=f"sqlite:///{folder}/var/worker.db")
    )


def _step(_done: int, _total: int) -> None:
    pass


@pytest.fixture
def live(tmp_path: Path) -> Settings:
    """A worker's folder with three instances, its database still open as in a running service."""
    settings = _settings(tmp_path / "live")
    _receive(settings)
    return settings


def _receive(settings: Settings) -> Database:
    database = Database(settings.database.url)
    make_tables(database)
    keeper = InstanceKeeper(database, settings.worker.data_dir, lambda: datetime.now(UTC), minimum_free_bytes=0)
    for number in (1, 2, 3):
        keeper.keep(received(mr_instance(number)))
    keeper.close()
    return database


def _files(settings: Settings) -> dict[str, bytes]:
    root = settings.worker.data_dir / "instances"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.dcm")}


def test_a_restored_worker_is_the_one_that_was_backed_up(live: Settings, tmp_path: Path) -> None:
    assert back_up(live, tmp_path / "copy", _step) == (3, 0)
    restored = _settings(tmp_path / "new")
    assert restore_backup(restored, tmp_path / "copy", _step) == 3
    assert _files(restored) == _files(live)
    database = Database(restored.database.url)
    with database.read() as session:
        assert unfinished_counts(session)["series"] == {"open": 1}
        assert len(instances_of(session, 1)) == 3


def test_a_damaged_file_is_counted_and_not_copied(live: Settings, tmp_path: Path) -> None:
    next(iter((live.worker.data_dir / "instances").rglob("*.dcm"))).write_bytes(b"damaged")
    assert back_up(live, tmp_path / "copy", _step) == (2, 1)
    with pytest.raises(StartError, match="1 file of the backup missing or damaged"):
        restore_backup(_settings(tmp_path / "new"), tmp_path / "copy", _step)


def test_neither_overwrites_anything(live: Settings, tmp_path: Path) -> None:
    back_up(live, tmp_path / "copy", _step)
    with pytest.raises(StartError, match="is not empty"):
        back_up(live, tmp_path / "copy", _step)
    with pytest.raises(StartError, match="needs an empty data folder"):
        restore_backup(live, tmp_path / "copy", _step)


def test_a_folder_that_is_no_backup_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="is not a backup"):
        restore_backup(_settings(tmp_path), tmp_path, _step)


def test_a_copy_can_be_checked_without_the_worker(live: Settings, tmp_path: Path) -> None:
    back_up(live, tmp_path / "copy", _step)
    check = ["sha256sum", "--check", "--strict", "files.sha256"]
    assert subprocess.run(check, cwd=tmp_path / "copy", capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    "name",
    [
        "../config.toml", "instances/../../config.toml", "/etc/cron.d/x", "config.toml", "worker.db", "instances",
        "instances/./x", "instances//x", "instances/x\\..\\y", "audit/1.audit", "",
    ],
)  # fmt: skip
def test_a_manifest_names_nothing_outside_the_data_folder(live: Settings, tmp_path: Path, name: str) -> None:
    back_up(live, tmp_path / "copy", _step)
    content = b"bundle = '/tmp/evil'"
    planted = tmp_path / "copy" / name.lstrip("/") if name else tmp_path / "copy" / "x"
    if not planted.exists():
        planted.parent.mkdir(parents=True, exist_ok=True)
        planted.write_bytes(content)
    with (tmp_path / "copy" / "files.sha256").open("a") as manifest:
        manifest.write(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
    restored = _settings(tmp_path / "new")
    with pytest.raises(StartError, match="names no file below instances"):
        restore_backup(restored, tmp_path / "copy", _step)
    assert not restored.worker.data_dir.exists()


def test_a_line_of_another_format_is_refused(live: Settings, tmp_path: Path) -> None:
    back_up(live, tmp_path / "copy", _step)
    with (tmp_path / "copy" / "files.sha256").open("a") as manifest:
        manifest.write("0123  instances/ab/cd/x\n")
    with pytest.raises(StartError, match=r"line 4 of files\.sha256"):
        restore_backup(_settings(tmp_path / "new"), tmp_path / "copy", _step)


def test_a_data_folder_on_another_disk_is_backed_up(live: Settings, tmp_path: Path) -> None:
    shutil.move(live.worker.data_dir / "instances", tmp_path / "disk")
    (live.worker.data_dir / "instances").symlink_to(tmp_path / "disk")
    assert back_up(live, tmp_path / "copy", _step) == (3, 0)
    assert restore_backup(_settings(tmp_path / "new"), tmp_path / "copy", _step) == 3


@pytest.mark.parametrize("what", ["file", "folder", "pipe"])
def test_a_link_or_a_pipe_in_a_backup_is_a_missing_file(live: Settings, tmp_path: Path, what: str) -> None:
    back_up(live, tmp_path / "copy", _step)
    file = next(iter((tmp_path / "copy" / "instances").rglob("*.dcm")))
    outside = tmp_path / "outside"
    if what == "folder":
        shutil.move(file.parent, outside)
        file.parent.symlink_to(outside)
    else:
        shutil.move(file, outside)
        if what == "file":
            file.symlink_to(outside)
        else:
            os.mkfifo(file)
    with ExitStack() as opened:
        if what == "pipe":  # with the very content, for whoever would read it
            pipe = opened.enter_context(os.fdopen(os.open(file, os.O_RDWR | os.O_NONBLOCK), "r+b", buffering=0))
            pipe.write(outside.read_bytes())
        with pytest.raises(StartError, match="missing or damaged"):
            restore_backup(_settings(tmp_path / "new"), tmp_path / "copy", _step)


@pytest.mark.skipif(os.geteuid() != 0, reason="a device is made by root")
def test_a_device_in_a_backup_is_not_read(live: Settings, tmp_path: Path) -> None:
    back_up(live, tmp_path / "copy", _step)
    file = next(iter((tmp_path / "copy" / "instances").rglob("*.dcm")))
    file.unlink()
    try:
        os.mknod(file, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # zeros without end
    except PermissionError:
        pytest.skip("no device may be made here")
    with pytest.raises(StartError, match="missing or damaged"):
        restore_backup(_settings(tmp_path / "new"), tmp_path / "copy", _step)


def test_of_the_trail_of_a_backup_plain_files_are_taken_alone(live: Settings, tmp_path: Path) -> None:
    back_up(live, tmp_path / "copy", _step)
    trail = tmp_path / "copy" / "audit"
    trail.mkdir(exist_ok=True)
    (trail / "kept.audit").write_text("a record")
    (trail / "link.audit").symlink_to("/etc/passwd")
    os.mkfifo(trail / "pipe.audit")
    restored = _settings(tmp_path / "new")
    restore_backup(restored, tmp_path / "copy", _step)
    assert [file.name for file in restored.audit_dir.iterdir()] == ["kept.audit"]


def test_a_database_that_is_a_link_is_no_backup(live: Settings, tmp_path: Path) -> None:
    back_up(live, tmp_path / "copy", _step)
    shutil.move(tmp_path / "copy" / "worker.db", tmp_path / "elsewhere.db")
    (tmp_path / "copy" / "worker.db").symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(StartError, match="is not a backup"):
        restore_backup(_settings(tmp_path / "new"), tmp_path / "copy", _step)


OUTSIDE = ["../config.toml", "/etc/passwd", "instances/../../x", "objects", "instances//x", "instances/x\n", "", b"x"]


def _changed(live: Settings, copy: Path, statement: str, value: str | bytes) -> None:
    """A backup of which somebody changed the database."""
    back_up(live, copy, _step)
    with closing(sqlite3.connect(copy / "worker.db")) as database:
        database.execute(statement, [value] * statement.count("?"))
        database.commit()


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_row_names_nothing_outside_the_data_folder(live: Settings, tmp_path: Path, path: str | bytes) -> None:
    _changed(live, tmp_path / "copy", "UPDATE instance SET path = ? WHERE id = 2", path)
    restored = _settings(tmp_path / "new")
    with pytest.raises(StartError, match="a row of 'instance' in the database of the backup names no file below"):
        restore_backup(restored, tmp_path / "copy", _step)
    assert not restored.worker.data_dir.exists()


def test_a_bundle_is_not_named_outside_the_data_folder(live: Settings, tmp_path: Path) -> None:
    add = "INSERT INTO model (name, version, sha256, added_at, state, state_at, state_by)"
    add += " VALUES ('m', '1', ?, '2026-01-01', 'added', '2026-01-01', 'x')"
    _changed(live, tmp_path / "copy", add, "../../home")
    with pytest.raises(StartError, match="a row of 'model'"):
        restore_backup(_settings(tmp_path / "new"), tmp_path / "copy", _step)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON association BEGIN UPDATE instance SET path = '../x'; END",
        "CREATE VIEW seen AS SELECT '../x' AS path",
        "create virtual table found using fts5(words)",
    ],
)
def test_a_database_with_code_is_not_restored(live: Settings, tmp_path: Path, statement: str) -> None:
    _changed(live, tmp_path / "copy", statement, "")
    with pytest.raises(StartError, match="has triggers or views"):
        restore_backup(_settings(tmp_path / "new"), tmp_path / "copy", _step)


@pytest.mark.parametrize("damage", ["text", "cut", "changed"])
def test_a_damaged_database_is_not_restored(live: Settings, tmp_path: Path, damage: str) -> None:
    back_up(live, tmp_path / "copy", _step)
    file = tmp_path / "copy" / "worker.db"
    whole = file.read_bytes()
    half = len(whole) // 2
    file.write_bytes({"text": b"no database", "cut": whole[:half], "changed": whole[:half] + bytes(half)}[damage])
    restored = _settings(tmp_path / "new")
    with pytest.raises(StartError, match=r"worker\.db of the backup is damaged"):
        restore_backup(restored, tmp_path / "copy", _step)
    assert not restored.worker.data_dir.exists()


@pytest.fixture
def postgresql(postgres_url: str, tmp_path: Path) -> Iterator[tuple[Settings, Settings]]:
    """A worker's settings on a database of its own, and those of the worker to restore to."""
    if shutil.which("pg_dump") is None or shutil.which("pg_restore") is None:
        pytest.skip("PostgreSQL's client programs are not installed")
    server = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    names = ("backup_live", "backup_new")
    with server.connect() as connection:
        for name in names:
            connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield tuple(
            _settings(tmp_path / name).model_copy(
                update={"database": DatabaseSection(url=f"{postgres_url.rpartition('/')[0]}/{name}")}
            )
            for name in names
        )
    finally:
        with server.connect() as connection:
            for name in names:
                connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


def test_postgresql_is_backed_up_and_restored_too(postgresql: tuple[Settings, Settings], tmp_path: Path) -> None:
    live, restored = postgresql
    _receive(live).close()
    assert back_up(live, tmp_path / "copy", _step) == (3, 0)
    assert restore_backup(restored, tmp_path / "copy", _step) == 3
    assert _files(restored) == _files(live)
    database = Database(restored.database.url)
    database.require_revision()
    with database.read() as session:
        assert unfinished_counts(session)["series"] == {"open": 1}
        assert len(instances_of(session, 1)) == 3
    with database.write() as session:  # sequences go on after the rows that were restored
        assert open_association(session, "PACS", "127.0.0.1", "host:1", datetime.now(UTC)) > 0
    database.close()
    shutil.rmtree(restored.worker.data_dir)
    with pytest.raises(StartError, match="the database has tables"):
        restore_backup(restored, tmp_path / "copy", _step)
    with pytest.raises(StartError, match=r"is not a backup: it has no worker\.db"):
        restore_backup(_settings(tmp_path / "sqlite"), tmp_path / "copy", _step)


def test_rows_of_postgresql_name_nothing_outside_either(postgresql: tuple[Settings, Settings], tmp_path: Path) -> None:
    live, restored = postgresql
    database = _receive(live)
    back_up(live, tmp_path / "copy", _step)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE instance SET path = '/etc/passwd' WHERE id = 2"))
    database.close()
    url, _ = client_address(live.database.url)
    subprocess.run(["pg_dump", "-Fc", f"--file={tmp_path / 'copy' / 'worker.pgdump'}", f"--dbname={url}"], check=True)
    with pytest.raises(StartError, match="a row of 'instance'"):
        restore_backup(restored, tmp_path / "copy", _step)
    database = Database(restored.database.url)
    assert database.revision() is None  # so the worker does not start with such rows
    database.close()


def test_without_the_client_programs_it_says_so(
    postgresql: tuple[Settings, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(postgresql[0].database.url)
    make_tables(database)
    database.close()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StartError, match="client programs"):
        back_up(postgresql[0], tmp_path / "copy", _step)
