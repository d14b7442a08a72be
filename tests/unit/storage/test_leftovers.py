from __future__ import annotations

import os
import socket
from pathlib import Path

from worker.storage.leftovers import remove_leftovers


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
