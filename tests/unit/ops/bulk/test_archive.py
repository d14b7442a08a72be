"""An archive read in chunks is the archive read at once; what the output holds is answered from there.

tests/integration/test_bulk.py has processes; here a task runs in this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.testbed.instances import MODEL, NOON, classified, write_series
from worker.cluster import Cluster, Lost
from worker.config.settings import Settings
from worker.db.tables import SeriesStatus
from worker.errors import StartError, WorkerError
from worker.jobs.bundle_store import ServedModel
from worker.ops.bulk import archive as module
from worker.ops.bulk import tasks
from worker.ops.bulk.archive import Archive, Bulk, find_series
from worker.ops.bulk.journal import Journal
from worker.ops.bulk.tasks import Classified, SeriesTask, Unable
from worker.ops.classify_folder import OfflineAnswer, classify_series, files_below, read_files


class InThisProcess(Cluster):
    """Runs each task when its answer is asked for, the last one first; some of them are lost instead."""

    def __init__(self, lost: Callable[[Any], bool] = lambda task: False) -> None:
        self.lost, self.tasks = lost, list[Any]()

    def ask_workers(self, function: Callable[[Any], Any], argument: Any) -> list[Any]:
        return [function(argument)]

    def run(
        self, function: Callable[[Any], Any], tasks: Iterable[Any], attempts: int, stop: object = None
    ) -> Iterator[tuple[Any, Any | Lost]]:
        for task in reversed(list(tasks)):
            self.tasks.append(task)
            yield task, Lost("process-died", "it died") if self.lost(task) else function(task)


def classify(bulk: Bulk, cluster: Cluster, archive: Archive) -> list[OfflineAnswer]:
    with Journal(bulk.out) as journal:
        return bulk.classify(cluster, journal, archive, nothing)


def nothing(_done: int, _total: int) -> None:
    pass


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two series whose files alternate, an image that both have, a series in two folders, and what is no image."""
    for folder, name, count in (("1", "a", 4), ("2", "b", 3), ("3", "c", 3)):
        write_series(tmp_path / "in" / folder, count, name)
    (tmp_path / "in" / "1" / "b-000.dcm").write_bytes((tmp_path / "in" / "2" / "b-002.dcm").read_bytes())
    (tmp_path / "in" / "4.dcm").write_bytes((tmp_path / "in" / "3" / "c-001.dcm").read_bytes())
    (tmp_path / "in" / "1" / "text").write_text("no image")
    return files_below([tmp_path / "in", tmp_path / "in" / "3"])


@pytest.mark.parametrize("chunk", [1, 2, 3, 200])
def test_an_archive_in_chunks_is_the_same(files: list[Path], chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    ticks: list[tuple[int, int]] = []
    archive = find_series(InThisProcess(), files, lambda done, total: ticks.append((done, total)))
    series, unread = read_files(files)
    assert [(found.series_instance_uid, list(found.members)) for found in archive.series] == list(series.items())
    assert list(archive.unread) == unread
    assert [fault.reason for fault in unread] == ["not-dicom", *["repeated"] * 5]
    assert ticks[-1] == (len(files), len(files))


def test_a_file_whose_header_ends_the_process_costs_no_other_file(files: list[Path]) -> None:
    poison = files[1]
    found = find_series(InThisProcess(lambda task: poison in task.paths), files, nothing)
    assert found.unread[0] == module.Unread(poison, "process-died", "it died")
    series, _ = read_files(path for path in files if path != poison)
    assert {item.series_instance_uid: list(item.members) for item in found.series} == series


@pytest.fixture
def bulk(tmp_path: Path) -> Bulk:
    bulk = Bulk(Settings(), tmp_path / "out")
    bulk.__dict__["model"] = ServedModel(MODEL, module._classifies_nothing)
    return bulk


@pytest.fixture(autouse=True)
def a_task_needs_no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    def classify(task: SeriesTask) -> Classified:
        members = tasks.unpack(task.members)
        model = ServedModel(MODEL, lambda _paths, _kinds: classified([instance for _, instance in members]))
        answer = classify_series(members, Settings(), model, task.work.parts / "part", NOON)
        return Classified(answer, "part" if answer.written else None)

    monkeypatch.setattr(tasks, "classify", classify)


def test_what_the_output_holds_is_not_classified_again(files: list[Path], bulk: Bulk) -> None:
    archive = find_series(InThisProcess(), files, nothing)
    assert len(archive.series) == 3
    middle = archive.series[1].series_instance_uid
    lost = InThisProcess(lambda task: task.series_instance_uid == middle)
    first = classify(bulk, lost, archive)
    assert [answer.answer.status for answer in first] == ["classified", "failed", "classified"]
    assert (first[1].answer.reason, first[1].written) == ("process-died", None)
    cluster = InThisProcess()
    again = classify(bulk, cluster, archive)
    assert [task.series_instance_uid for task in cluster.tasks] == [middle]
    assert [again[0], again[2]] == [first[0], first[2]]
    for number, answer in enumerate(again, 1):
        assert answer.written is not None
        assert answer.written.report == bulk.out / f"series-{number}" / "report.dcm"
        assert answer.written.report.is_file()
    assert again[1].answer.status == SeriesStatus.CLASSIFIED
    assert sorted(path.name for path in bulk.out.iterdir()) == ["answers.jsonl", "series-1", "series-2", "series-3"]


def test_a_series_is_classified_again_when_its_answer_or_its_objects_may_differ(files: list[Path], bulk: Bulk) -> None:
    archive = find_series(InThisProcess(), files, nothing)
    first = classify(bulk, InThisProcess(), archive)
    assert first[0].written is not None
    first[0].written.png.unlink()
    cluster = InThisProcess()
    assert classify(bulk, cluster, archive) == first
    assert len(cluster.tasks) == 1

    one_image_less = find_series(InThisProcess(), [path for path in files if path.name != "a-003.dcm"], nothing)
    classify(bulk, cluster := InThisProcess(), one_image_less)
    assert len(cluster.tasks) == 1

    torch = bulk.settings.model_copy(update={"worker": bulk.settings.worker.model_copy(update={"engine": "torch"})})
    other = replace(bulk, settings=torch)
    other.__dict__["model"] = bulk.model
    classify(other, cluster := InThisProcess(), one_image_less)
    assert len(cluster.tasks) == 3


def test_a_series_keeps_its_folder_when_the_archive_grows(files: list[Path], bulk: Bulk) -> None:
    grown = find_series(InThisProcess(), files, nothing)
    classify(bulk, InThisProcess(), Archive(grown.series[1:], ()))
    answers = classify(bulk, InThisProcess(), grown)
    numbers = [answer.written.report.parent.name for answer in answers if answer.written is not None]
    assert numbers == ["series-4", "series-1", "series-2"]


def test_a_worker_that_cannot_classify_ends_the_run(
    files: list[Path], bulk: Bulk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tasks, "classify", lambda _task: Unable("no bundle"))
    with pytest.raises(WorkerError, match="a Dask worker cannot classify: no bundle"):
        classify(bulk, InThisProcess(), find_series(InThisProcess(), files, nothing))
    bulk.check(InThisProcess(), [tmp_path])
    with pytest.raises(StartError, match=r"does not see .*absent: it must be shared"):
        bulk.check(InThisProcess(), [tmp_path / "absent"])
    monkeypatch.setattr(tasks, "__version__", "0.0")
    with pytest.raises(StartError, match=r"a Dask worker runs version 0\.0"):
        bulk.check(InThisProcess(), [tmp_path])


def test_a_worker_is_told_no_secret(tmp_path: Path) -> None:
    database = {"url": "postgresql+psycopg://worker:secret@db/worker"}
    settings = Settings.model_validate({"worker": {"bundle": "here"}, "database": database})
    told = Settings.model_validate_json(Bulk(settings, tmp_path)._settings_of_tasks())
    assert told.worker.bundle == Path("here").absolute()
    assert told.worker.inference_threads == 1
    assert told.database.url != database["url"]
    assert "secret" not in Bulk(settings, tmp_path)._settings_of_tasks()
