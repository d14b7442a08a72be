from __future__ import annotations

from pathlib import Path

from tests.testbed.instances import new_instance
from worker.storage.pending import PendingCommit, StoreOutcome, status_of
from worker.storage.versions.comparison import Difference, StoredContent

STORED = StoredContent("1.2", "1.3", "instances/x", 1, "ab", is_removed=False)


def test_only_content_that_is_set_aside_is_answered_with_a_warning() -> None:
    assert {outcome: status_of(outcome) for outcome in StoreOutcome} == {
        StoreOutcome.STORED: 0,
        StoreOutcome.REPEATED: 0,
        StoreOutcome.CORRECTED: 0,
        StoreOutcome.CONFLICTING: 0xB000,
    }


def test_what_was_compared_waits_for_another_commit_with_a_turn_of_its_own() -> None:
    first = PendingCommit(new_instance(), "file", "path", 7, outcome=STORED)
    again = first.after_comparison(STORED, Difference.PIXELS)
    assert (again.compared, again.outcome, again.fault) == ((STORED, Difference.PIXELS), None, None)
    assert (again.new, again.file, again.path, again.inode) == (first.new, "file", "path", 7)
    assert again.turn is not first.turn
    assert again.turn.locked()


def test_a_file_moves_with_the_folders_that_are_new(tmp_path: Path) -> None:
    file, path = tmp_path / "x", tmp_path / "conflicts" / "ab" / "x.dcm"
    file.write_bytes(b"x")
    pending = PendingCommit(new_instance(), str(file), str(file))
    assert pending.move(str(path)) == {str(path.parent), str(path.parent.parent), str(tmp_path)}
    assert path.read_bytes() == b"x"
    assert pending.move(str(path)) == {str(path.parent)}
