"""`worker backup` and `worker restore`: the database first, then every file that its rows name and every stored bundle.

A row is committed only after its file, so the files that a copy of the database names exist when they are copied later;
those that retention deletes meanwhile are counted as missing. The backup lists its files in the format of sha256sum, so
that it can be verified without the worker.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from worker.config.paths import sqlite_path
from worker.config.settings import Settings
from worker.db.engine import Database, client_address
from worker.db.instances import kept_files
from worker.errors import StartError
from worker.files import open_atomically
from worker.jobs.bundle_store import BundleStore

_SQLITE = "worker.db"
_POSTGRESQL = "worker.pgdump"
_MANIFEST = "files.sha256"
_TRAIL = "audit"
Step = Callable[[int, int], None]
Named = Sequence[tuple[str, str]]  # path below the data folder, SHA-256


def back_up(settings: Settings, folder: Path, step: Step) -> tuple[int, int]:
    """Copy everything to a folder. Returns the numbers of files copied, and missing or damaged.

    Raises StartError for a folder that is not empty, and without a database or pg_dump.
    """
    if folder.exists() and any(folder.iterdir()):
        raise StartError("backup-in-the-way", f"{folder} is not empty")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = [*_copy_database(settings.database.url, folder), *_bundle_files(settings)]
        _copy_trail(settings.audit_dir, folder / _TRAIL)  # after the database, which records its length
        (folder / _MANIFEST).write_text("".join(f"{sha256}  {name}\n" for name, sha256 in names), encoding="utf-8")
        return _copy_files(names, settings.worker.data_dir, folder, step)
    except OSError as error:
        raise StartError("backup-failed", f"{folder}: {error.strerror}") from None


def restore_backup(settings: Settings, folder: Path, step: Step) -> int:
    """Restore a backup. Returns the number of files.

    Raises StartError for a backup that is incomplete or damaged, and for a database or data folder that is not empty.
    """
    url, data_dir = settings.database.url, settings.worker.data_dir
    file = sqlite_path(url)
    database = folder / (_POSTGRESQL if file is None else _SQLITE)
    if not (folder / _MANIFEST).is_file() or not database.is_file():
        raise StartError("no-backup", f"{folder} is not a backup: it has no {database.name} with {_MANIFEST}")
    targets = (file, data_dir / "instances", data_dir / "objects")
    existing = [path for path in targets if path is not None and path.exists()]
    if existing:
        raise StartError("restore-in-the-way", f"{existing[0]} exists: restore needs an empty data folder and database")
    if file is None and _revision(url) is not None:
        raise StartError("restore-in-the-way", "the database has tables: restore needs an empty database")
    lines = (folder / _MANIFEST).read_text(encoding="utf-8").splitlines()
    names = [(name, sha256) for sha256, _, name in (line.partition("  ") for line in lines)]
    try:
        copied, missing = _copy_files(names, folder, data_dir, step)
        if missing:
            raise StartError("backup-not-whole", f"{missing} files of the backup are missing or damaged")
        if not any(settings.audit_dir.glob("*.audit")):  # a trail that survived is longer than the copy
            _copy_trail(folder / _TRAIL, settings.audit_dir)
        # Last and atomic: after an interrupted restore there is no database, so the worker does not start.
        if file is None:
            options = ["--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges"]
            _run_client("pg_restore", url, *options, str(database))
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            with database.open("rb") as source, open_atomically(file) as target:
                shutil.copyfileobj(source, target)
    except OSError as error:
        raise StartError("restore-failed", f"{data_dir}: {error.strerror}") from None
    return copied


def _bundle_files(settings: Settings) -> Named:
    """The files of every stored bundle, with the hashes that the bundle lists."""
    named: list[tuple[str, str]] = []
    for bundle in BundleStore(settings).copies():
        listed = json.loads((bundle / "worker.json").read_bytes())["files"] | {"worker.json": bundle.name}
        named += [(f"models/{bundle.name}/{name}", sha256) for name, sha256 in listed.items()]
    return named


def _copy_trail(source: Path, target: Path) -> None:
    """Copy the audit trail. Its hash chain verifies it, so it is not among the files of the manifest."""
    for file in source.glob("*.audit"):
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copy2(file, target / file.name)


def _copy_database(url: str, folder: Path) -> Named:
    """Copy a consistent state of the database. Returns the files that its rows name."""
    file = sqlite_path(url)
    if file is None:
        return _dump_postgresql(url, folder / _POSTGRESQL)
    if not file.is_file():
        raise StartError("no-database", f"there is no database {file} to back up")
    with closing(sqlite3.connect(file)) as live, closing(sqlite3.connect(folder / _SQLITE)) as copy:
        live.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, not three
    database = Database(f"sqlite:///{folder / _SQLITE}")
    try:
        database.require_revision()
        with database.read() as session:
            return kept_files(session)
    finally:
        database.close()


def _dump_postgresql(url: str, target: Path) -> Named:
    database = Database(url)
    try:
        database.require_revision()
        # pg_dump reads the snapshot of this transaction, so that rows and file list agree.
        with database.read_exported() as (session, snapshot):
            names = kept_files(session)
            options = ["--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}"]
            _run_client("pg_dump", url, *options, f"--file={target}")
            return names
    finally:
        database.close()


def _run_client(program: str, url: str, *options: str) -> None:
    """Run pg_dump or pg_restore on our database. The password goes in the environment, which `ps` does not show."""
    if shutil.which(program) is None:
        raise StartError("no-postgresql-client", f"{program} is not installed: install PostgreSQL's client programs")
    address, password = client_address(url)
    environment = dict(os.environ)
    if password:
        environment["PGPASSWORD"] = password
    done = subprocess.run(
        [program, f"--dbname={address}", *options], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"failed with exit status {done.returncode}"]
        raise StartError("postgresql-client-failed", f"{program}: {lines[0]}")


def _revision(url: str) -> str | None:
    database = Database(url)
    try:
        return database.revision()
    finally:
        database.close()


def _copy_files(names: Named, source: Path, target: Path, step: Step) -> tuple[int, int]:
    copied = 0
    for number, (name, sha256) in enumerate(names, 1):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            content = (source / name).read_bytes()
        except FileNotFoundError:
            content = None
        if content is not None and hashlib.sha256(content).hexdigest() == sha256:
            path.write_bytes(content)
            copied += 1
        step(number, len(names))
    return copied, len(names) - copied
