"""The error tree: each class has a single response.

WorkerError
├ StartError       refuse to start: a line for the person, exit code 2
├ RefusedInstance  answer the peer with `status`, store nothing
├ NotAssessable    the series gets a "not assessed" result with this reason; no retry
├ Retry            nothing is lost; try again later with backoff
└ Park             retries are pointless; parked with the reason until a person acts

`reason` is a stable word that is stored and queried ("mixed-sizes"); `detail` is a sentence for a person. Neither
may hold a patient identifier or a UID (architecture, invariant 6).
"""

from __future__ import annotations


class WorkerError(Exception):
    """Base class of every error that the worker raises on purpose."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail or reason


class StartError(WorkerError):
    """The command cannot start: configuration, port, bundle or database."""


class RefusedInstance(WorkerError):
    """A C-STORE that is answered with a failure status (PS3.4 B.2.3)."""

    def __init__(self, status: int, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.status = status


class NotAssessable(WorkerError):
    """The series is outside what the model may classify (architecture, invariant 8)."""


class Retry(WorkerError):
    """A transient fault: a peer that is down, a database that is locked, a process that died."""


class Park(WorkerError):
    """A permanent fault: parked with its reason, visible in every query, until a person retries it."""
