"""What is in the output survives a crash in the middle of a line, and belongs to a single process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.testbed.instances import MODEL, NOON, write_series
from worker.config.settings import Settings
from worker.errors import NotAssessable, StartError
from worker.inference.illustrated import IllustratedResult
from worker.jobs.bundle_store import ServedModel
from worker.ops.bulk.journal import NAME, Entry, Journal
from worker.ops.classify_folder import OfflineAnswer, classify_series, failed_series, read_folder


def not_assessable(_paths: object, _kinds: object) -> IllustratedResult:
    raise NotAssessable("mixed-sizes", "sizes differ")


def answers(folder: Path) -> list[OfflineAnswer]:
    """Of a series that has objects, and of one that has none."""
    for name in "ab":
        write_series(folder / "in", 3, name)
    first, second = read_folder(folder / "in")[0].values()
    model = ServedModel(MODEL, not_assessable)
    written = classify_series(first, Settings(), model, folder / "out", NOON)
    return [written, failed_series(second, model, NOON, "process-died", "it died")]


def test_a_line_that_a_crash_cut_off_is_removed_and_the_others_stay(tmp_path: Path) -> None:
    first, second = answers(tmp_path)
    with Journal(tmp_path / "new" / "out") as journal:
        for number, answer in enumerate((first, second, first), 1):
            journal.add(Entry(f"key {number}", number, answer))
        entries = journal.entries
    file = tmp_path / "new" / "out" / NAME
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"key": "of another version"}\n' + whole[:100])
    with Journal(tmp_path / "new" / "out") as journal:
        assert journal.entries == entries == {
            first.answer.series_instance_uid: Entry("key 3", 3, first),
            second.answer.series_instance_uid: Entry("key 2", 2, second),
        }  # fmt: skip
        journal.add(Entry("key 4", 3, replace(first, written=None)))
    assert len(file.read_bytes().splitlines()) == 5
    with Journal(tmp_path / "new" / "out") as journal:
        assert len(journal.entries) == 2


def test_two_processes_do_not_write_to_the_same_output(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(StartError, match="another `worker classify` writes to"):
        Journal(tmp_path)
    Journal(tmp_path).__exit__(None, None, None)
