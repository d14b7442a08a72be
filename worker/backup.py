"""`worker backup` and `worker restore`: the database first, then every file that its rows name, hash by hash.

A row is committed only after its file, so the files of a database copy exist when they are copied later. Files that are
deleted meanwhile by retention are not named by a fresh copy, and are told.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from worker import store
from worker.config import Settings, sqlite_path
from worker.errors import StartError

_DATABASE = "worker.db"
_TRAIL = "audit"
Step = Callable[[int, int], None]


def back_up(settings: Settings, folder: Path, step: Step) -> tuple[int, int]:
    """(files copied, files missing or damaged). Raises StartError: no SQLite, no database, or a folder in use."""
    source = _database_file(settings)
    if not source.is_file():
        raise StartError("no-database", f"there is no database {source} to back up")
    if folder.exists() and any(folder.iterdir()):
        raise StartError("backup-in-the-way", f"{folder} is not empty")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(folder / _DATABASE)) as copy:
            live.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, not three
        _copy_trail(settings.audit_dir, folder / _TRAIL)  # after the database, which knows how far it must reach
        return _copy_files(_named_files(folder / _DATABASE), settings.worker.data_dir, folder, step)
    except OSError as error:
        raise StartError("backup-failed", f"{folder}: {error.strerror}") from None


def put_back(settings: Settings, folder: Path, step: Step) -> int:
    """The number of files restored. Raises StartError for a backup that is not whole or a target that is not empty."""
    target, data_dir = _database_file(settings), settings.worker.data_dir
    if not (folder / _DATABASE).is_file():
        raise StartError("no-backup", f"{folder} holds no {_DATABASE}: it is no backup")
    taken = [path for path in (target, *(data_dir / name for name in ("instances", "objects"))) if path.exists()]
    if taken:
        raise StartError("restore-in-the-way", f"{taken[0]} exists: restore writes into an empty place only")
    names = _named_files(folder / _DATABASE)
    try:
        copied, missing = _copy_files(names, folder, data_dir, step)
        if missing:
            raise StartError("backup-not-whole", f"{missing} files of the backup are missing or damaged")
        if not any(settings.audit_dir.glob("*.audit")):  # a trail that survived is longer than its copy
            _copy_trail(folder / _TRAIL, settings.audit_dir)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Last, and whole: without the database an interrupted restore is no working worker.
        shutil.copyfile(folder / _DATABASE, target.with_suffix(".part"))
        os.replace(target.with_suffix(".part"), target)
    except OSError as error:
        raise StartError("restore-failed", f"{data_dir}: {error.strerror}") from None
    return copied


def _copy_trail(source: Path, target: Path) -> None:
    for file in source.glob("*.audit"):
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copy2(file, target / file.name)


def _database_file(settings: Settings) -> Path:
    file = sqlite_path(settings.database.url)
    if file is None:
        raise StartError("not-sqlite", "the database is not SQLite: take it with pg_dump, see the operating guide")
    return file


def _named_files(database: Path) -> list[tuple[str, str]]:
    copy = store.Store(f"sqlite:///{database}")
    try:
        copy.require_revision()
        with copy.read() as session:
            return store.kept_files(session)
    finally:
        copy.close()


def _copy_files(names: Sequence[tuple[str, str]], source: Path, target: Path, step: Step) -> tuple[int, int]:
    copied = 0
    for number, (name, sha256) in enumerate(names, 1):
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            content = (source / name).read_bytes()
        except FileNotFoundError:
            content = None
        if content is not None and hashlib.sha256(content).hexdigest() == sha256:
            place.write_bytes(content)
            copied += 1
        step(number, len(names))
    return copied, len(names) - copied
