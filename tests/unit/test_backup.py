from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.testbed.instances import mr_instance, received
from worker import store
from worker.backup import back_up, put_back
from worker.config import DatabaseSection, Settings, WorkerSection
from worker.errors import StartError
from worker.inbound.instances import InstanceKeeper
from worker.migrate import migrate
from worker.store import Store


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
    database = Store(settings.database.url)
    migrate(database)
    keeper = InstanceKeeper(database, settings.worker.data_dir, lambda: datetime.now(UTC), minimum_free_bytes=0)
    for number in (1, 2, 3):
        keeper.keep(received(mr_instance(number)))
    keeper.close()
    return settings


def _files(settings: Settings) -> dict[str, bytes]:
    root = settings.worker.data_dir / "instances"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.dcm")}


def test_a_restored_worker_is_the_one_that_was_backed_up(live: Settings, tmp_path: Path) -> None:
    assert back_up(live, tmp_path / "copy", _step) == (3, 0)
    restored = _settings(tmp_path / "new")
    assert put_back(restored, tmp_path / "copy", _step) == 3
    assert _files(restored) == _files(live)
    database = Store(restored.database.url)
    with database.read() as session:
        assert store.counts(session)["series"] == {"open": 1}
        assert len(store.instances_of(session, 1)) == 3


def test_a_damaged_file_is_told_and_not_copied(live: Settings, tmp_path: Path) -> None:
    next(iter((live.worker.data_dir / "instances").rglob("*.dcm"))).write_bytes(b"damaged")
    assert back_up(live, tmp_path / "copy", _step) == (2, 1)
    with pytest.raises(StartError, match="1 files of the backup are missing or damaged"):
        put_back(_settings(tmp_path / "new"), tmp_path / "copy", _step)


def test_neither_overwrites_anything(live: Settings, tmp_path: Path) -> None:
    back_up(live, tmp_path / "copy", _step)
    with pytest.raises(StartError, match="is not empty"):
        back_up(live, tmp_path / "copy", _step)
    with pytest.raises(StartError, match="empty place only"):
        put_back(live, tmp_path / "copy", _step)


def test_a_folder_that_is_no_backup_is_said(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="it is no backup"):
        put_back(_settings(tmp_path), tmp_path, _step)


def test_postgresql_is_sent_to_pg_dump(tmp_path: Path) -> None:
    settings = _settings(tmp_path).model_copy(update={"database": DatabaseSection(url="postgresql+psycopg://h/d")})
    with pytest.raises(StartError, match="pg_dump"):
        back_up(settings, tmp_path / "copy", _step)
