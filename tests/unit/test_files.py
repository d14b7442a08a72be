from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from tests.testbed.full_disk import files_limited_to
from worker.files import fsync, open_atomically, write_atomically


def test_content_replaces_the_old(tmp_path: Path) -> None:
    path = tmp_path / "answer.txt"
    write_atomically(path, b"first")
    assert path.read_bytes() == b"first"
    write_atomically(path, "zweite Fassung: größer\r\n")
    assert path.read_bytes() == "zweite Fassung: größer\r\n".encode()
    assert os.listdir(tmp_path) == ["answer.txt"]


@pytest.mark.parametrize("before", [None, b"the last good one"])
def test_full_disk_leaves_what_was_there_and_no_part(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "checkpoint.pt"
    if before is not None:
        path.write_bytes(before)
    with files_limited_to(1 << 16), pytest.raises(OSError, match="File too large"):
        write_atomically(path, bytes(1 << 20))
    assert (path.read_bytes() if path.exists() else None) == before
    assert os.listdir(tmp_path) == ([path.name] if before else [])


@pytest.mark.parametrize("fault", [ValueError("the writer's"), KeyboardInterrupt()])
def test_fault_in_the_middle_of_a_stream_leaves_what_was_there(tmp_path: Path, fault: BaseException) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"whole")

    def write_half() -> None:
        with open_atomically(path) as file:
            file.write(b"half")
            file.flush()
            assert len(os.listdir(tmp_path)) == 2
            raise fault

    with pytest.raises(type(fault)):
        write_half()
    assert path.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == [path.name]


def test_reader_sees_a_whole_file_while_a_new_one_is_written(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_atomically(path, "old")
    with open_atomically(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_mode_is_kept_and_a_new_file_has_that_of_open(tmp_path: Path) -> None:
    secret, plain, by_open = tmp_path / "secret", tmp_path / "plain", tmp_path / "by-open"
    secret.write_bytes(b"")
    secret.chmod(0o600)
    by_open.write_bytes(b"")
    write_atomically(secret, "x")
    write_atomically(plain, "x")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(plain.stat().st_mode) == stat.S_IMODE(by_open.stat().st_mode)


def test_folder_that_is_missing_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "absent" / "file", b"")


def test_long_name(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 127)  # 254 bytes of UTF-8; a file system has 255
    write_atomically(path, b"x")
    assert path.read_bytes() == b"x"


def test_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "object.dcm"
    contents = [bytes([number]) * 100_000 for number in range(8)]
    writers = [threading.Thread(target=write_atomically, args=(path, content)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == [path.name]


def test_fsync_takes_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    fsync(tmp_path / "file")
    fsync(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        fsync(tmp_path / "absent")
