"""`worker backup` and `worker restore`: the database first, then every file that its rows name and every stored bundle.

A row is committed only after its file, so the files that a copy of the database names exist when they are copied later;
those that retention deletes meanwhile are counted as missing. The backup lists its files in the format of sha256sum, so
that it can be verified without the worker.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from worker.config.paths import sqlite_path
from worker.config.settings import Settings
from worker.db.engine import Connection, Database, client_address
from worker.db.instances import kept_files
from worker.db.migrate import NotRestorable, drop_tables, find_table_with_name, open_sqlite_copy
from worker.errors import StartError
from worker.files import open_atomically
from worker.jobs.bundle_store import BundleStore
from worker.wording import counted

_SQLITE = "worker.db"
_POSTGRESQL = "worker.pgdump"
_MANIFEST = "files.sha256"
_TRAIL = "audit"
_FOLDERS = ("instances", "objects", "conflicts", "models")  # what a manifest may name, below the data folder
_LINE = re.compile(r"([0-9a-f]{64})  (.{1,1024})")
_LARGEST_MANIFEST = 1 << 30
_CHUNK = 1 << 20
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
        return _copy_files(names, settings.worker.data_dir, folder, step, links=True)
    except OSError as error:
        raise StartError("backup-failed", f"{folder}: {error.strerror}") from None


def restore_backup(settings: Settings, folder: Path, step: Step) -> int:
    """Restore a backup. Returns the number of files.

    Raises StartError for a backup that is incomplete, damaged or unsafe, and for a database or data folder that is not
    empty.
    """
    url, data_dir = settings.database.url, settings.worker.data_dir
    file = sqlite_path(url)
    database = folder / (_POSTGRESQL if file is None else _SQLITE)
    if not _is_plain_file(folder / _MANIFEST) or not _is_plain_file(database):
        raise StartError("no-backup", f"{folder} is not a backup: it has no {database.name} with {_MANIFEST}")
    targets = (file, data_dir / "instances", data_dir / "objects")
    existing = [path for path in targets if path is not None and path.exists()]
    if existing:
        raise StartError("restore-in-the-way", f"{existing[0]} exists: restore needs an empty data folder and database")
    if file is None and _revision(url) is not None:
        raise StartError("restore-in-the-way", "the database has tables: restore needs an empty database")
    names = _read_manifest(folder / _MANIFEST)
    if file is not None:
        _require_safe_copy(database)
    try:
        copied, missing = _copy_files(names, folder, data_dir, step, links=False)
        if missing:
            raise StartError("backup-not-whole", f"{counted(missing, 'file')} of the backup missing or damaged")
        if not any(settings.audit_dir.glob("*.audit")):  # a trail that survived is longer than the copy
            _copy_trail(folder / _TRAIL, settings.audit_dir)
        # Last and atomic: after an interrupted restore there is no database, so the worker does not start.
        if file is None:
            options = ["--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges"]
            _run_client("pg_restore", url, *options, str(database))
            _require_safe_rows(url)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            with _open_plain(database) as source, open_atomically(file) as target:
                shutil.copyfileobj(source, target)
    except OSError as error:
        raise StartError("restore-failed", f"{data_dir}: {error.strerror}") from None
    return copied


def _read_manifest(path: Path) -> Named:
    """The files that a backup lists. A backup may come from anywhere, so nothing outside the data folder is named.

    Raises StartError for a line in another format and for a path that leads, or could lead, elsewhere.
    """
    names: dict[str, str] = {}
    with _open_plain(path) as file:
        if os.fstat(file.fileno()).st_size > _LARGEST_MANIFEST:
            raise StartError("backup-unsafe", f"{_MANIFEST} of the backup exceeds {_LARGEST_MANIFEST >> 20} MiB")
        for number, line in enumerate(file.read().decode("utf-8", errors="replace").splitlines(), 1):
            match = _LINE.fullmatch(line)
            if match is None or not _is_below_data_folder(match[2]):
                raise StartError(
                    "backup-unsafe", f"line {number} of {_MANIFEST} names no file below {', '.join(_FOLDERS)}"
                )
            names[match[2]] = match[1]
    return list(names.items())


def _is_below_data_folder(name: str) -> bool:
    parts = PurePosixPath(name).parts
    plain = name == "/".join(parts) and name.isprintable() and "\\" not in name
    return plain and len(parts) > 1 and parts[0] in _FOLDERS and ".." not in parts


def _require_safe_copy(file: Path) -> None:
    """Raises StartError for a SQLite file that is damaged, has code, or names a file outside the data folder."""
    try:
        with open_sqlite_copy(file) as connection:
            _require_names_below(connection)
    except NotRestorable as fault:
        raise StartError("backup-unsafe", f"{file.name} of the backup {fault}") from None


def _require_safe_rows(url: str) -> None:
    """Raises StartError, and removes the tables, where a restored row names a file outside the data folder."""
    database = Database(url)
    try:
        with database.begin() as connection:
            _require_names_below(connection)
    except StartError:
        drop_tables(database)
        raise
    finally:
        database.close()


def _require_names_below(connection: Connection) -> None:
    table = find_table_with_name(connection, lambda name: not isinstance(name, str) or not _is_below_data_folder(name))
    if table is not None:
        raise StartError(
            "backup-unsafe",
            f"a row of {table!r} in the database of the backup names no file below {', '.join(_FOLDERS)}",
        )


def _is_plain_file(path: Path) -> bool:
    """Whether a path is a file itself: no symbolic link, device or pipe."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _open_plain(path: Path) -> BinaryIO:
    """Open a file for reading. Raises OSError for a symbolic link, and for what is no file, without waiting for it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file", str(path))
    return os.fdopen(descriptor, "rb")


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
        if _is_plain_file(file):
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copy2(file, target / file.name, follow_symlinks=False)


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


def _copy_files(names: Named, source: Path, target: Path, step: Step, *, links: bool) -> tuple[int, int]:
    """Copy files whose hash is right. Returns the numbers of files copied, and missing or damaged.

    `links`: follow symbolic links to folders, as our own data folder may have them; a backup has none.
    """
    copied = 0
    for number, (name, sha256) in enumerate(names, 1):
        parents = [source / parent for parent in PurePosixPath(name).parents]
        if links or not any(parent.is_symlink() for parent in parents[:-1]):
            copied += _copy_verified(source, target, name, sha256)
        step(number, len(names))
    return copied, len(names) - copied


def _copy_verified(source: Path, target: Path, name: str, sha256: str) -> bool:
    """Copy a file of that hash; False, and no copy, for a file that is missing, damaged or a link."""
    path = target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    try:
        with _open_plain(source / name) as original, path.open("xb") as copy:
            while chunk := original.read(_CHUNK):
                digest.update(chunk)
                copy.write(chunk)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.EINVAL, errno.ENXIO):
            return False
        raise
    if digest.hexdigest() != sha256:
        path.unlink()
        return False
    return True
