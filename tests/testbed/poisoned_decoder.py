"""A decoder process whose codec does what a file's first word says: segfault, abort, hang (with the interpreter's lock
held), greedy, slow, noise (on the wire), or good."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worker.decoding import operations, process


def poisoned(files: tuple[Path, ...], opening: operations.Opening, **_arguments: Any) -> Iterator[bytes]:
    opening(files[0])
    word = files[0].read_text().split()[0]
    if word == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if word == "abort":
        os.abort()
    if word == "hang":
        ctypes.PyDLL(None).sleep(60)
    if word == "greedy":
        bytearray(1 << 30)
    if word == "slow":
        time.sleep(0.5)
    if word == "noise":
        for fd in range(3, 20):
            try:
                os.write(fd, b"\xff" * 64)
            except OSError:
                continue
    yield b"decoded " + word.encode()


if __name__ == "__main__":
    for name in operations.OPERATIONS:
        operations.OPERATIONS[name] = poisoned
    process.main(float(sys.argv[1]), int(sys.argv[2]))
