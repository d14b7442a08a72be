"""Messages between the web process and a decoder process: a kind, a length, and bytes; text is JSON.

Nothing that comes from a decoder process is unpickled or believed to have the length that it claims.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import BinaryIO

HEAD = struct.Struct("<BQ")
PIECE = 1 << 18


class Kind(IntEnum):
    """What a message of a decoder process is."""

    PART = 1  # a part of the answer
    END = 2  # the answer is complete
    REFUSED = 3  # JSON [reason, detail]: the file cannot be decoded
    DISK = 4  # JSON errno: the file cannot be read
    OPENING = 5  # JSON: the place in the task's files of the file that is decoded next


def write(stream: BinaryIO, kind: int, content: bytes | memoryview) -> None:
    stream.write(HEAD.pack(kind, len(content)))
    stream.write(content)
    stream.flush()
