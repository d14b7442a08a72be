"""What a Dask worker answers, also where it can do nothing; none of it raises, and none of it shows an identifier."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.testbed.instances import write_series
from worker.cluster import Lost
from worker.config.settings import Settings
from worker.errors import Retry
from worker.inference.bundle import default_bundle, verified_identity
from worker.ops.bulk import tasks
from worker.ops.bulk.tasks import Chunk, Described, SeriesTask, Unable, Work
from worker.ops.classify_folder import read_folder


def test_files_are_described_as_by_the_command(tmp_path: Path) -> None:
    files = [*write_series(tmp_path, 2, "a"), *write_series(tmp_path, 1, "b"), tmp_path / "text", tmp_path / "absent"]
    (tmp_path / "text").write_text("no image")
    described = tasks.describe(Chunk(10, tuple(files)))
    assert [image[0] for fragment in described.fragments for image in fragment.images] == [10, 11, 12]
    assert [(place, fault.reason) for place, fault in described.unread] == [(13, "not-dicom"), (14, "unreadable")]
    series, _ = read_folder(tmp_path)
    assert {
        fragment.series_instance_uid: tasks.unpack([fragment.members]) for fragment in described.fragments
    } == series


def test_a_task_shows_no_path_and_no_header(tmp_path: Path) -> None:
    files = write_series(tmp_path / "CANARY^NAME", 1, "a", PatientName="CANARY^NAME")
    chunk = Chunk(0, tuple(files))
    described = tasks.describe(chunk)
    [fragment] = described.fragments
    shown = repr((chunk, described, fragment, SeriesTask("1.2", (fragment.members,), _work(tmp_path))))
    assert "CANARY" not in shown
    assert isinstance(described, Described)


def _work(folder: Path, sha256: str = "", **worker: object) -> Work:
    settings = Settings.model_validate({"worker": worker}).model_dump_json(include={"worker", "eligibility"})
    return Work(settings, sha256, folder)


def test_a_process_that_cannot_classify_says_why(tmp_path: Path) -> None:
    task = SeriesTask("1.2", (), _work(tmp_path, bundle=str(tmp_path)))
    assert tasks.classify(task) == Unable(f"there is no model bundle at {tmp_path} (no worker.json)")
    task = SeriesTask("1.2", (), _work(tmp_path, "another"))
    assert tasks.classify(task) == Unable("its model bundle is not that of the host where the command runs")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (MemoryError(), "memory-limit"),
        (Retry("busy", "no"), "busy"),
        (OSError(28, "full"), "inference-fault"),
        (KeyError("CANARY"), "inference-fault"),
    ],
)
def test_a_fault_of_a_series_is_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, reason: str
) -> None:
    def classify_series(*_arguments: object) -> object:
        raise fault

    monkeypatch.setattr(tasks, "classify_series", classify_series)
    sha256 = verified_identity(default_bundle()).sha256
    answer = tasks.classify(SeriesTask("1.2", (tasks.pack([]),), _work(tmp_path, sha256)))
    assert isinstance(answer, Lost)
    assert answer.reason == reason
    assert "CANARY" not in answer.detail


def test_a_path_that_a_worker_does_not_see_is_told(tmp_path: Path) -> None:
    assert tasks.look([tmp_path, tmp_path / "absent"]).unseen == (str(tmp_path / "absent"),)
