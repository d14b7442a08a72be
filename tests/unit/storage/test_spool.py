"""Where the content of an arriving instance is held, and how much of all of them is in memory."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from pathlib import Path

import pytest

from worker.storage import spool as spools
from worker.storage.spool import Spool, SpooledFile, remove_leftovers


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    monkeypatch.setattr(spools, "SPOOL_BYTES", 100)
    return Spool(tmp_path, memory_bytes=150, minimum_free_bytes=0)


def test_small_content_stays_in_memory_and_large_goes_to_a_file(spool: Spool, tmp_path: Path) -> None:
    content = bytearray(b"beginning")
    assert spool.append(content, b"a" * 91) is content
    assert list(tmp_path.iterdir()) == []
    file = spool.append(content, b"b")
    assert isinstance(file, SpooledFile)
    assert spool.append(file, b"c" * 50) is file
    expected = b"beginning" + b"a" * 91 + b"b" + b"c" * 50
    with file.open() as opened:
        assert opened.read() == expected
    assert (len(file), file.sha256()) == (len(expected), hashlib.sha256(expected).hexdigest())
    file.discard()
    file.discard()
    assert list(tmp_path.iterdir()) == []


def test_beyond_the_memory_of_all_even_small_content_goes_to_a_file(spool: Spool) -> None:
    held = [spool.append(bytearray(), bytes(70)) for _ in range(4)]
    assert [type(content) for content in held] == [bytearray, bytearray, SpooledFile, SpooledFile]
    assert spool.held_bytes == 140
    spool.release(70)
    assert isinstance(spool.append(bytearray(), bytes(70)), bytearray)
    for content in held:
        if isinstance(content, SpooledFile):
            content.discard()


def test_below_the_free_space_nothing_is_begun(tmp_path: Path) -> None:
    spool = Spool(tmp_path, memory_bytes=0, minimum_free_bytes=1 << 60)
    with pytest.raises(OSError, match="minimum_free_bytes") as fault:
        spool.append(bytearray(), b"content")
    assert fault.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_the_free_space_is_looked_at_while_a_file_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spools, "_CHECK_BYTES", 10)
    spool = Spool(tmp_path, memory_bytes=0, minimum_free_bytes=0)
    file = spool.append(bytearray(), b"12345")
    assert isinstance(file, SpooledFile)
    spool._minimum_free_bytes = 1 << 60
    spool.append(file, b"67")
    with pytest.raises(OSError, match="minimum_free_bytes"):
        spool.append(file, b"8901")
    file.discard()


def test_a_file_that_cannot_be_written_is_not_left(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: SpooledFile, content: bytes) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(SpooledFile, "append", fail)
    with pytest.raises(OSError, match="broken"):
        spool.append(bytearray(), bytes(200))
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_receiver_are_removed(tmp_path: Path) -> None:
    incoming = tmp_path / "instances" / "incoming"
    incoming.mkdir(parents=True)
    (incoming / f"999999999-dead-{socket.gethostname()}").write_bytes(b"half")
    elsewhere = incoming / "999999999-coming-another-host"
    elsewhere.write_bytes(b"half")
    assert remove_leftovers(tmp_path) == 1
    assert list(incoming.iterdir()) == [elsewhere]  # its receiver may be writing it just now
    os.utime(elsewhere, (0, 0))
    assert remove_leftovers(tmp_path) == 1
