"""`worker backup` and `worker restore`: the database first, then every file that its rows name and every kept bundle.

A row is committed only after its file, so the files of a database copy exist when they are copied later. Files that are
deleted meanwhile by retention are not named by a fresh copy, and are told. The copy holds its list of files in the form
of sha256sum, so that it can be checked without the worker.
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

from worker.config.settings import Settings, sqlite_path
from worker.db.engine import Database, client_address
from worker.db.instances import kept_files
from worker.errors import StartError
from worker.files import open_atomically
from worker.jobs.bundle_store import BundleStore

_SQLITE = "worker.db"
_POSTGRESQL = "worker.pgdump"
_LIST = "files.sha256"
_TRAIL = "audit"
Step = Callable[[int, int], None]
Named = Sequence[tuple[str, str]]  # path below the data folder, SHA-256


def back_up(settings: Settings, folder: Path, step: Step) -> tuple[int, int]:
    """(files copied, files missing or damaged). Raises StartError: no database, no pg_dump, or a folder in use."""
    if folder.exists() and any(folder.iterdir()):
        raise StartError("backup-in-the-way", f"{folder} is not empty")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = [*_copy_database(settings.database.url, folder), *_bundle_files(settings)]
        _copy_trail(settings.audit_dir, folder / _TRAIL)  # after the database, which knows how far it must reach
        (folder / _LIST).write_text("".join(f"{sha256}  {name}\n" for name, sha256 in names), encoding="utf-8")
        return _copy_files(names, settings.worker.data_dir, folder, step)
    except OSError as error:
        raise StartError("backup-failed", f"{folder}: {error.strerror}") from None


def put_back(settings: Settings, folder: Path, step: Step) -> int:
    """The number of files restored. Raises StartError for a backup that is not whole or a target that is not empty."""
    url, data_dir = settings.database.url, settings.worker.data_dir
    file = sqlite_path(url)
    database = folder / (_POSTGRESQL if file is None else _SQLITE)
    if not (folder / _LIST).is_file() or not database.is_file():
        raise StartError("no-backup", f"{folder} holds no {database.name} with its {_LIST}: it is no such backup")
    taken = [path for path in (file, *(data_dir / name for name in ("instances", "objects"))) if path and path.exists()]
    if taken:
        raise StartError("restore-in-the-way", f"{taken[0]} exists: restore writes into an empty place only")
    if file is None and _revision(url) is not None:
        raise StartError("restore-in-the-way", "the database has tables: restore writes into an empty place only")
    lines = (folder / _LIST).read_text(encoding="utf-8").splitlines()
    names = [(name, sha256) for sha256, _, name in (line.partition("  ") for line in lines)]
    try:
        copied, missing = _copy_files(names, folder, data_dir, step)
        if missing:
            raise StartError("backup-not-whole", f"{missing} files of the backup are missing or damaged")
        if not any(settings.audit_dir.glob("*.audit")):  # a trail that survived is longer than its copy
            _copy_trail(folder / _TRAIL, settings.audit_dir)
        # Last, and whole: without the database an interrupted restore is no working worker.
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
    """The copies of model bundles, each file with the hash that its bundle gives it."""
    named: list[tuple[str, str]] = []
    for place in BundleStore(settings).copies():
        listed = json.loads((place / "worker.json").read_bytes())["files"] | {"worker.json": place.name}
        named += [(f"models/{place.name}/{name}", sha256) for name, sha256 in listed.items()]
    return named


def _copy_trail(source: Path, target: Path) -> None:
    """The audit trail proves itself by its chain, so it is not among the files that are listed with their hashes."""
    for file in source.glob("*.audit"):
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copy2(file, target / file.name)


def _copy_database(url: str, folder: Path) -> Named:
    """Copy the database as it is at one moment; the files that its rows name."""
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
        # pg_dump sees what this transaction sees, so rows and list of files are of one moment.
        with database.read_exported() as (session, snapshot):
            names = kept_files(session)
            options = ["--format=custom", "--no-owner", "--no-privileges", f"--snapshot={snapshot}"]
            _run_client("pg_dump", url, *options, f"--file={target}")
            return names
    finally:
        database.close()


def _run_client(program: str, url: str, *options: str) -> None:
    """pg_dump or pg_restore on our database. The password travels in the environment, where `ps` does not show it."""
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
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise StartError("postgresql-client-failed", f"{program}: {said[0]}")


def _revision(url: str) -> str | None:
    database = Database(url)
    try:
        return database.revision()
    finally:
        database.close()


def _copy_files(names: Named, source: Path, target: Path, step: Step) -> tuple[int, int]:
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
