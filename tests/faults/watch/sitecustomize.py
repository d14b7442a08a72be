"""Loaded by every Python process that has this folder on PYTHONPATH: note what is written outside one folder.

SOAK_ALLOWED names the folder, SOAK_TRESPASS the file to note it in. Python tells of every open, rename, link and new
folder (PEP 578), so a file name that a peer chose shows here whether or not the file is still there afterwards.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_ALLOWED = os.path.realpath(os.environ["SOAK_ALLOWED"]) + os.sep
_TRESPASS = os.open(os.environ["SOAK_TRESPASS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
_PATHS = {"os.rename": (0, 1), "os.mkdir": (0,), "os.link": (0, 1), "os.symlink": (1,), "os.remove": (0,), "open": (0,)}
_HARMLESS = ("/dev/", "/proc/")


def _look(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _PATHS:
        return
    if event == "open" and not int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    for place in _PATHS[event]:
        path = arguments[place]
        if isinstance(path, (str, bytes)):
            full = os.path.realpath(os.fsdecode(path))
            if not full.startswith(_ALLOWED) and not full.startswith(_HARMLESS) and "__pycache__" not in full:
                os.write(_TRESPASS, f"{event} {full!r}\n".encode())


sys.addaudithook(_look)
