"""What a Dask worker does: read the headers of files, classify a series. Nothing here raises.

Dask logs the arguments of a task that raises, and headers and paths hold identifiers: a fault is returned, and no
argument is shown by its `repr`.
"""

from __future__ import annotations

import os
import pickle
import threading
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from worker import __version__
from worker.cluster import Lost
from worker.config.settings import Settings
from worker.db.instances import NewInstance
from worker.errors import RefusedInstance, StartError, WorkerError
from worker.files import fsync
from worker.jobs.bundle_store import BundleStore, ServedModel
from worker.logs import configure_logs
from worker.ops.classify_folder import OfflineAnswer, Unread, classify_series, describe_file
from worker.process import hide_files_from_others
from worker.process_limits import end_process_after, lift_memory_limit, limit_decoders, limit_memory

Members = Sequence[tuple[Path, NewInstance]]
_ONE_SERIES = threading.Lock()  # limits of time and memory are a process's, whatever its number of threads


@dataclass(frozen=True, slots=True)
class Work:
    """What every task needs. `settings` is JSON of the settings without the secrets; paths are absolute.

    `parts` is the folder in which each attempt writes the objects of its series, below a name of its own.
    """

    settings: str
    model_sha256: str
    parts: Path


@dataclass(frozen=True, slots=True, repr=False)
class Chunk:
    """Files whose headers are read; `first` is the place of the first of them among all files."""

    first: int
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True, repr=False)
class Fragment:
    """The images of a series among the files of a chunk: (place, SOP Instance UID) of each, and `packed` members."""

    series_instance_uid: str
    images: tuple[tuple[int, str], ...]
    members: bytes


@dataclass(frozen=True, slots=True, repr=False)
class Described:
    """What the files of a chunk are; `unread` with their places."""

    fragments: tuple[Fragment, ...]
    unread: tuple[tuple[int, Unread], ...]


@dataclass(frozen=True, slots=True, repr=False)
class SeriesTask:
    """A series to classify, by the packed members of its fragments."""

    series_instance_uid: str
    members: tuple[bytes, ...]
    work: Work


@dataclass(frozen=True, slots=True, repr=False)
class Classified:
    """The answer for a series, and the folder below `Work.parts` that holds its objects; None where it was refused."""

    answer: OfflineAnswer
    part: str | None


@dataclass(frozen=True, slots=True)
class Unable:
    """This process can classify no series at all, and why."""

    detail: str


@dataclass(frozen=True, slots=True)
class Sight:
    """What a Dask worker has: its version of this program, and which of the paths asked for it cannot see."""

    version: str
    unseen: tuple[str, ...] = field(repr=False)


def look(paths: Sequence[Path]) -> Sight:
    """Tell whether this process sees the same files, by the same program."""
    return Sight(__version__, tuple(str(path) for path in paths if not path.exists()))


def pack(members: Members) -> bytes:
    return zlib.compress(pickle.dumps(list(members)), 1)


def unpack(packed: Sequence[bytes]) -> Members:
    """The members of a series, of its fragments."""
    return [member for part in packed for member in pickle.loads(zlib.decompress(part))]


def describe(chunk: Chunk) -> Described:
    """Read the headers of files."""
    series: dict[str, list[tuple[int, Path, NewInstance]]] = {}
    unread: list[tuple[int, Unread]] = []
    for place, path in enumerate(chunk.paths, chunk.first):
        try:
            instance = describe_file(path)
        except RefusedInstance as fault:
            unread.append((place, Unread(path, fault.reason, fault.detail)))
        except (OSError, MemoryError) as fault:
            why = getattr(fault, "strerror", None) or "it exceeds the memory"
            unread.append((place, Unread(path, "unreadable", f"the file cannot be read: {why}")))
        else:
            series.setdefault(instance.series_instance_uid, []).append((place, path, instance))
    fragments = [
        Fragment(
            uid,
            tuple((place, instance.sop_instance_uid) for place, _, instance in found),
            pack([(path, instance) for _, path, instance in found]),
        )
        for uid, found in series.items()
    ]
    return Described(tuple(fragments), tuple(unread))


def classify(task: SeriesTask) -> Classified | Unable | Lost:
    """Refuse or classify a series; its objects are on disk, whole, before it is answered."""
    settings = Settings.model_validate_json(task.work.settings)
    with _ONE_SERIES, _as_configured(settings):
        try:
            model = _load(task.work)
        except (StartError, OSError, MemoryError) as fault:
            return Unable(fault.detail if isinstance(fault, WorkerError) else f"{type(fault).__name__} in the bundle")
        try:
            with _limited(settings):
                return _classify(task, settings, model)
        except MemoryError:
            return Lost("memory-limit", "the series needs more memory than [worker] job_memory_bytes or the host has")
        except WorkerError as fault:
            return Lost(fault.reason, fault.detail)
        except Exception as fault:  # a task's boundary: whatever happens to one series, the others go on
            detail = f"{type(fault).__name__} while the series was read, classified or reported"
            return Lost("inference-fault", detail)


def _classify(task: SeriesTask, settings: Settings, model: ServedModel) -> Classified:
    part = uuid.uuid4().hex
    folder = task.work.parts / part
    answer = classify_series(unpack(task.members), settings, model, folder, datetime.now(UTC))
    if answer.written is None:
        return Classified(answer, None)
    for path in (*folder.iterdir(), folder):
        fsync(path)
    return Classified(answer, part)


@lru_cache(maxsize=1)
def _load(work: Work) -> ServedModel:
    """The model, once for a process. Raises StartError, also where this host has another bundle than the client."""
    model = BundleStore(Settings.model_validate_json(work.settings)).load_configured()
    if model.identity.sha256 != work.model_sha256:
        raise StartError("bundle-differs", "its model bundle is not that of the host where the command runs")
    return model


@contextmanager
def _as_configured(settings: Settings) -> Iterator[None]:
    """This process as the service runs it: its logs, the mode of new files, the limit of a decoder."""
    configure_logs("ERROR")
    mask = os.umask(0o077)
    os.umask(mask)
    hide_files_from_others()
    limit_decoders(settings.worker.decoder_seconds)
    try:
        yield
    finally:
        limit_decoders(0)
        os.umask(mask)


@contextmanager
def _limited(settings: Settings) -> Iterator[None]:
    """Have the kernel end this process when a series takes too long, and refuse it more memory than configured."""
    limit_memory(settings.worker.job_memory_bytes)
    end_process_after(settings.worker.job_timeout_seconds)
    try:
        yield
    finally:
        end_process_after(0)
        lift_memory_limit()
