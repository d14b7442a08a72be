from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.testbed.databases import make_tables
from tests.testbed.tiny_bundle import copy_bundle, write_worker_json
from worker.config.settings import Settings
from worker.db import models
from worker.db.engine import Database
from worker.errors import StartError
from worker.inference.bundle import verified_identity
from worker.jobs import bundle_store
from worker.jobs.bundle_store import BundleStore
from worker.ops.backup import back_up, restore_backup
from worker.ops.doctor import examine


@pytest.fixture
def settings(bundle_folder: Path, tmp_path: Path) -> Settings:
    values = {"worker": {"data_dir": tmp_path / "var", "bundle": bundle_folder}, "receive": {"minimum_free_bytes": 0}}
    return Settings.model_validate(values | {"database": {"url": f"sqlite:///{tmp_path / 'var' / 'worker.db'}"}})


@pytest.fixture
def other(bundle_folder: Path, tmp_path: Path) -> Path:
    folder = copy_bundle(bundle_folder, tmp_path / "other")
    write_worker_json(folder, version="0.0.2")
    return folder


def test_a_copy_is_found_by_its_hash_and_runs(settings: Settings, other: Path) -> None:
    store = BundleStore(settings)
    sha256 = verified_identity(other).sha256
    assert store.find(sha256) is None
    copy = store.add(other)
    shutil.rmtree(other)
    assert store.find(sha256) == copy
    assert store.add(copy) == copy
    assert store.load(copy).identity.version == "0.0.2"
    store.remove(sha256)
    assert store.find(sha256) is None


def test_bundle_that_this_host_has_not_is_a_start_error(settings: Settings) -> None:
    with pytest.raises(StartError, match="no bundle 0123456789ab in its data folder"):
        BundleStore(settings).require("0123456789abcdef" * 4)


def test_the_configured_bundle_is_loaded_with_its_identity(settings: Settings, bundle_folder: Path) -> None:
    assert BundleStore(settings).load_configured().identity == verified_identity(bundle_folder)


def test_the_configured_bundle_is_found_where_it_lies(settings: Settings, bundle_folder: Path) -> None:
    assert BundleStore(settings).find(verified_identity(bundle_folder).sha256) == bundle_folder


def test_what_a_kill_left_of_a_copy_is_no_bundle(
    settings: Settings, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BundleStore(settings)

    class Killed(BaseException):
        pass

    def kill(_path: Path) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(bundle_store, "fsync", kill)
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(Killed):
            store.add(other)
    assert len(list((settings.worker.data_dir / "models").iterdir())) == 1
    assert store.copies() == []
    assert store.add(other) == store.copies()[0]


def test_a_folder_that_cannot_be_written_is_one_line(settings: Settings, other: Path) -> None:
    settings.worker.data_dir.write_text("not a folder")
    with pytest.raises(StartError, match="cannot copy the model bundle into the data folder"):
        BundleStore(settings).add(other)


def test_doctor_looks_at_the_models_and_backup_takes_them_along(
    settings: Settings, other: Path, tmp_path: Path
) -> None:
    database = Database(settings.database.url)
    make_tables(database)
    now = datetime.now(UTC)
    copy = BundleStore(settings).add(other)
    with database.write() as session:
        row, _ = models.add_model(session, verified_identity(other), "ada", now)
        models.activate_model(session, row.id, "ada", now)
    database.close()
    files, missing = back_up(settings, tmp_path / "copy", lambda *_: None)
    assert (files, missing) == (len([one for one in other.rglob("*") if one.is_file()]), 0)
    shutil.rmtree(settings.worker.data_dir)
    restore_backup(settings, tmp_path / "copy", lambda *_: None)
    assert verified_identity(copy).version == "0.0.2"

    found = {one.subject: one for one in examine(settings, None, now)}
    assert found["model tiny-test-model 0.0.2"].well
    (copy / "docs/README.md").write_text("changed")
    found = {one.subject: one for one in examine(settings, None, now)}
    assert "is not the exported file" in found["model tiny-test-model 0.0.2"].detail
