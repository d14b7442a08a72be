"""A decoder process: `python -m worker.decoding.process SECONDS BYTES`. Reads tasks from its input, writes the answers.

The kernel ends it after SECONDS in a task, refuses it more than BYTES of memory and every write to a file; it ends with
the web process. What a codec prints goes nowhere: it may quote the file.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

from worker.decoding import operations
from worker.decoding.tasks import Task
from worker.decoding.wire import Kind, write
from worker.errors import NotAssessable
from worker.process_limits import end_process_after, limit_memory

_LIFELINE_SECONDS = 1.0


def main(seconds: float, memory_bytes: int) -> None:
    """Answer tasks until the input ends."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=1 << 16)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    limit_memory(memory_bytes)
    while line := requests.readline():
        task = operations.arguments_of(json.loads(line))
        end_process_after(seconds)
        _answer(task, replies)
        end_process_after(0)


def _answer(task: Task, replies: BinaryIO) -> None:
    def opening(file: Path) -> None:
        write(replies, Kind.OPENING, json.dumps(task.files.index(file)).encode())

    try:
        for part in operations.run(task, opening):
            write(replies, Kind.PART, part)
        write(replies, Kind.END, b"")
    except NotAssessable as fault:
        write(replies, Kind.REFUSED, json.dumps([fault.reason, fault.detail]).encode())
    except BrokenPipeError:
        raise
    except OSError as error:
        write(replies, Kind.DISK, json.dumps(error.errno or 0).encode())
    except MemoryError:
        operations.clear_caches()
        detail = "An image needs more memory than [web] decoder_memory_bytes allows."
        write(replies, Kind.REFUSED, json.dumps(["image-too-large", detail]).encode())
    except Exception:  # the boundary to the codecs; what they raise may quote the file
        detail = "The pixel data of an image cannot be decoded."
        write(replies, Kind.REFUSED, json.dumps(["pixel-data-unreadable", detail]).encode())


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LIFELINE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
