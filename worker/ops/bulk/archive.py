"""Classify an archive: find its series, have each classified once, keep what was answered."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from worker import __version__
from worker.cluster import Cluster, Lost
from worker.config.settings import Settings
from worker.db.instances import input_sha256
from worker.dicom.series_attributes import Kinds
from worker.errors import StartError, WorkerError
from worker.files import fsync
from worker.inference.bundle import load_bundle
from worker.inference.illustrated import IllustratedResult
from worker.jobs.bundle_store import BundleStore, ServedModel
from worker.ops.bulk import tasks
from worker.ops.bulk.journal import Entry, Journal
from worker.ops.bulk.tasks import Chunk, Described, Fragment, Members, SeriesTask, Unable, Work
from worker.ops.classify_folder import OfflineAnswer, Unread, Written, failed_series, repeated

Tick = Callable[[int, int], None]  # with the steps done, and the steps in all
_CHUNK = 200  # files whose headers are read by a task


@dataclass(frozen=True)
class FoundSeries:
    """A series of the archive: the packed members of its fragments, in the order of its files."""

    series_instance_uid: str
    packed: tuple[bytes, ...]

    @property
    def members(self) -> Members:
        return tasks.unpack(self.packed)


@dataclass(frozen=True)
class Archive:
    """The series below some folders, in the order of their first files, and the files that are no images."""

    series: tuple[FoundSeries, ...]
    unread: tuple[Unread, ...]


def find_series(cluster: Cluster, files: Sequence[Path], tick: Tick) -> Archive:
    """Read the headers of files, a chunk a task; the same as `classify_folder.read_files`.

    A file whose reading ends its process is unread.
    """
    chunks = [Chunk(first, tuple(files[first : first + _CHUNK])) for first in range(0, len(files), _CHUNK)]
    described: list[Described] = []
    suspects: list[Chunk] = []
    read = 0
    for chunk, answer in cluster.run(tasks.describe, chunks, attempts=1):
        if isinstance(answer, Lost):
            suspects += [Chunk(chunk.first + index, (path,)) for index, path in enumerate(chunk.paths)]
            continue
        described.append(answer)
        tick(read := read + len(chunk.paths), len(files))
    for chunk, answer in cluster.run(tasks.describe, suspects, attempts=2):
        if isinstance(answer, Lost):
            answer = Described((), ((chunk.first, Unread(chunk.paths[0], answer.reason, answer.detail)),))
        described.append(answer)
        tick(read := read + 1, len(files))
    return _joined(described, files)


def _joined(described: Sequence[Described], files: Sequence[Path]) -> Archive:
    """Fragments in the order of their files become series; of images with the same UID the first counts."""
    unread = [item for chunk in described for item in chunk.unread]
    images = sorted(
        (place, sop_instance_uid, index)
        for index, fragment in enumerate(fragment for chunk in described for fragment in chunk.fragments)
        for place, sop_instance_uid in fragment.images
    )
    seen: set[str] = set()
    dropped: set[int] = set()
    for place, sop_instance_uid, _ in images:
        if sop_instance_uid in seen:
            dropped.add(place)
        seen.add(sop_instance_uid)
    unread += [(place, repeated(files[place])) for place in dropped]
    series: dict[str, list[bytes]] = {}
    fragments = [_without(fragment, dropped) for chunk in described for fragment in chunk.fragments]
    for fragment in sorted((item for item in fragments if item is not None), key=lambda item: item.images[0]):
        series.setdefault(fragment.series_instance_uid, []).append(fragment.members)
    found = tuple(FoundSeries(uid, tuple(packed)) for uid, packed in series.items())
    return Archive(found, tuple(item for _, item in sorted(unread, key=lambda item: item[0])))


def _without(fragment: Fragment, dropped: set[int]) -> Fragment | None:
    """A fragment without some of its images; None where none is left."""
    if not any(place in dropped for place, _ in fragment.images):
        return fragment
    members = zip(fragment.images, tasks.unpack([fragment.members]), strict=True)
    kept = [(image, member) for image, member in members if image[0] not in dropped]
    if not kept:
        return None
    return replace(
        fragment, images=tuple(image for image, _ in kept), members=tasks.pack([member for _, member in kept])
    )


@dataclass(frozen=True)
class Bulk:
    """The classification of an archive into the folder `out`."""

    settings: Settings
    out: Path

    @cached_property
    def model(self) -> ServedModel:
        """The configured model as far as studies need it: it classifies nothing in this process."""
        bundle = load_bundle(BundleStore(self.settings).configured())
        return ServedModel(bundle.identity, _classifies_nothing, bundle.study)

    def check(self, cluster: Cluster, folders: Sequence[Path]) -> int:
        """Check that the workers see the folders and run this version; how many there are now. Raises StartError."""
        paths = [path.absolute() for path in (self.out, *folders)]
        answers = cluster.ask_workers(tasks.look, paths)
        for answer in answers:
            if isinstance(answer, Lost):
                raise StartError("dask-worker", f"brain-mri-worker is not installed on a Dask worker: {answer.detail}")
            if answer.version != __version__:
                raise StartError(
                    "dask-worker", f"a Dask worker runs version {answer.version}, this command {__version__}"
                )
            if answer.unseen:
                raise StartError("dask-worker", f"a Dask worker does not see {answer.unseen[0]}: it must be shared")
        return len(answers)

    def classify(self, cluster: Cluster, journal: Journal, archive: Archive, tick: Tick) -> list[OfflineAnswer]:
        """The answers for the series, in their order; those that the output's journal has are not classified again.

        `tick` counts the others. A series that cannot be classified has an answer that says why, and is tried again
        the next time. Raises WorkerError where the cluster is gone or a worker cannot classify at all.
        """
        numbers = _numbers(archive.series, journal)
        todo = {
            series.series_instance_uid: series
            for series in archive.series
            if not self._is_done(series, journal.entries.get(series.series_instance_uid))
        }
        work = Work(self._settings_of_tasks(), self.model.identity.sha256, journal.parts)
        waiting = (SeriesTask(uid, series.packed, work) for uid, series in todo.items())
        failed: dict[str, OfflineAnswer] = {}
        tick(0, len(todo))
        ended = cluster.run(tasks.classify, waiting, self.settings.worker.job_attempts)
        for number, (task, done) in enumerate(ended, 1):
            uid = task.series_instance_uid
            if isinstance(done, Unable):
                raise WorkerError("dask-worker", f"a Dask worker cannot classify: {done.detail}")
            if isinstance(done, Lost):
                failed[uid] = failed_series(todo[uid].members, self.model, datetime.now(UTC), done.reason, done.detail)
            else:
                entry = Entry(self._key(todo[uid]), numbers[uid], done.answer)
                self._place(entry, None if done.part is None else journal.parts / done.part)
                journal.add(entry)
            tick(number, len(todo))
        uids = [series.series_instance_uid for series in archive.series]
        return [failed.get(uid) or self._located(journal.entries[uid]) for uid in uids]

    def _is_done(self, series: FoundSeries, entry: Entry | None) -> bool:
        """Whether the series is in the output, as it would be answered now, with its objects."""
        if entry is None or entry.key != self._key(series):
            return False
        written = self._located(entry).written
        return written is None or (written.report.is_file() and written.picture.is_file() and written.png.is_file())

    def _key(self, series: FoundSeries) -> str:
        """All that an answer depends on: the images, the model, what is eligible, the engine and this version."""
        images = input_sha256([instance for _, instance in series.members])
        facts = (images, self.model.identity.sha256, self.settings.worker.engine, __version__)
        text = "\n".join((*facts, self.settings.eligibility.model_dump_json()))
        return hashlib.sha256(text.encode()).hexdigest()

    def _place(self, entry: Entry, part: Path | None) -> None:
        """Move the objects of a series into its folder, in place of those of an earlier answer."""
        folder = self._folder(entry)
        shutil.rmtree(folder, ignore_errors=True)
        if part is not None:
            os.replace(part, folder)
            fsync(self.out)

    def _folder(self, entry: Entry) -> Path:
        return self.out / f"series-{entry.number}"

    def _located(self, entry: Entry) -> OfflineAnswer:
        """An answer with the paths of its objects as they are now."""
        if entry.answer.written is None:
            return entry.answer
        return replace(entry.answer, written=Written.below(self._folder(entry)))

    def _settings_of_tasks(self) -> str:
        """The settings that tasks need, none of which is secret; a Dask worker is a single core."""
        worker = self.settings.worker
        kept = {
            "bundle": worker.bundle and worker.bundle.absolute(),
            "inference_threads": worker.inference_threads or 1,
        }
        return Settings(worker=worker.model_copy(update=kept), eligibility=self.settings.eligibility).model_dump_json(
            include={"worker", "eligibility"}
        )


def _numbers(series: Sequence[FoundSeries], journal: Journal) -> dict[str, int]:
    """The number of each series' folder: its own in the journal, else its place if that is free, else a new number."""
    numbers = {uid: entry.number for uid, entry in journal.entries.items()}
    taken = set(numbers.values())
    unused = itertools.count(max(len(series), *taken, 0) + 1)
    for place, found in enumerate(series, 1):
        if found.series_instance_uid not in numbers:
            numbers[found.series_instance_uid] = next(unused) if place in taken else place
    return numbers


def _classifies_nothing(_paths: Sequence[Path], _kinds: Sequence[Kinds] | None) -> IllustratedResult:
    raise NotImplementedError("Dask workers classify")
