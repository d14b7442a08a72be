"""The addresses on which we listen: whether they can be bound, and in words why not."""

from __future__ import annotations

import errno
import os
import socket

from worker.network.unreachable import unresolved


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound, not yet listening. Raises OSError, or UnicodeError for what cannot be a host name."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only on sockets that name their protocol. Without it every answer on a persistent
    # connection waits 40 ms for the acknowledgement of its own headers.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, UnicodeError):
        listener.close()
        raise
    return listener


def binding_fault(section: str, host: str, port: int) -> str | None:
    """Why the address of a section of the configuration cannot be bound now; None where it can."""
    try:
        listening_socket(host, port).close()
    except (OSError, UnicodeError) as fault:
        return explain_binding(fault, section, host, port)
    return None


def explain_binding(fault: OSError | UnicodeError, section: str, host: str, port: int) -> str:
    """The sentence for an address that cannot be bound, and what to do about it."""
    if isinstance(fault, (socket.gaierror, UnicodeError)):
        return f"[{section}] cannot listen on {host}:{port}: {unresolved(host, fault)}"
    number = fault.errno or 0
    advice = {
        errno.EADDRINUSE: f"stop the program that uses it, or set [{section}] port",
        errno.EADDRNOTAVAIL: f"this host has no such address; set [{section}] host",
        errno.EACCES: f"only root may use this port; set [{section}] port to 1024 or more",
    }.get(number, f"set [{section}] host or port")
    why = os.strerror(number).lower() if number > 0 else "it cannot be bound"
    return f"[{section}] cannot listen on {host}:{port}: {why}; {advice}"
