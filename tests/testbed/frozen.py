"""A role that hangs in the way that its argument names, holding a port: python -m tests.testbed.frozen KIND PORT."""

from __future__ import annotations

import re
import socket
import sys
import threading
import time

from worker.service.pulse import Pulse


def main(kind: str, port: int) -> None:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    pulse = Pulse()
    promise = pulse.part("loop")
    promise(0.5 if kind == "loop" else 1000)
    pulse.start_telling(threading.Event())
    if kind == "interpreter":
        time.sleep(1)
        re.match("(a+)+$", "a" * 64 + "b")  # holds the interpreter's lock until the end of time
    time.sleep(1000)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
