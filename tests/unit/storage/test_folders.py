"""Folders are synced by threads, each of them with the folders that its own name needs the first time."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.storage import folders
from worker.storage.folders import FolderSync


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    paths: list[str] = []
    real = folders.fsync

    def fsync(path: str) -> None:
        real(path)
        paths.append(str(path))

    monkeypatch.setattr(folders, "fsync", fsync)
    return paths


@pytest.fixture
def sync() -> Iterator[FolderSync]:
    sync = FolderSync(2)
    yield sync
    sync.close()


def test_a_new_folder_is_synced_with_its_parent_and_grandparent(
    sync: FolderSync, synced: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "ab" / "abcd"
    folder.mkdir(parents=True)
    sync.end(sync.begin(str(folder)))
    assert sorted(synced) == sorted(map(str, (folder, folder.parent, tmp_path)))
    synced.clear()
    sync.end(sync.begin(str(folder)))
    assert synced == [str(folder)]
    synced.clear()
    sync.forget(str(folder))
    sync.end(sync.begin(str(folder)))
    assert len(synced) == 3


def test_a_folder_that_cannot_be_synced_raises_where_it_is_waited_for(sync: FolderSync, tmp_path: Path) -> None:
    begun = sync.begin(str(tmp_path / "missing"))
    with pytest.raises(FileNotFoundError):
        sync.end(begun)
    sync.end(sync.begin(str(tmp_path)))  # the threads go on


def test_nothing_is_begun_after_the_end(tmp_path: Path) -> None:
    sync = FolderSync(1)
    begun = sync.begin(str(tmp_path))
    sync.close()
    sync.end(begun)  # what was begun is finished
    with pytest.raises(OSError, match="no more instances") as fault:
        sync.begin(str(tmp_path))
    assert fault.value.errno == errno.ESHUTDOWN
