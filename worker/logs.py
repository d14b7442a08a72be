"""structlog on standard error: a JSON object per line, or on a terminal a line to read.

Identifiers are masked (architecture, invariant 6).
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import MutableMapping
from contextlib import suppress
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from worker.imports import without

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger

_FORBIDDEN = ("patient", "accession", "uid", "name_of_patient", "birth")
# A UID, or a person name with its component delimiter, anywhere in a value.
_IDENTIFIER = re.compile(r"\b[0-9]+(?:\.[0-9]+){4,}\b|(?<![^\s^])[^\s^]+\^[^\s^]*")
MASKED = "***"


def mask_identifiers(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask values that the field's name or the value's form shows to be an identifier."""
    for key, value in event.items():
        if any(word in key.lower() for word in _FORBIDDEN):
            event[key] = MASKED
        elif isinstance(value, str):
            event[key] = _IDENTIFIER.sub(MASKED, value)
    return event


_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "1;31", "critical": "1;31"}  # SGR of ECMA-48


class TerminalRenderer:
    """A line to read: local time, level, message, then the facts as `name=value`; in colour unless NO_COLOR is set."""

    def __init__(self, in_colour: bool) -> None:
        self._in_colour = in_colour

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
        level, time = str(event.pop("level", "")), str(event.pop("timestamp", ""))
        message = str(event.pop("event", ""))
        facts = " ".join(
            f"{self._in('2', f'{key}=')}{_on_a_terminal(value)}" for key, value in event.items() if value is not None
        )
        name = self._in(_COLOURS.get(level, "0"), f"{level:<7}")
        return f"{self._in('2', time)} {name} {_on_a_terminal(message, quoted=False)}  {facts}".rstrip()

    def _in(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._in_colour else text


def _on_a_terminal(value: Any, *, quoted: bool = True) -> str:
    """A value as text: in quotes where it has spaces, and never with a control character, which a peer may send."""
    text = str(value)
    if not text.isprintable():
        return repr(text)
    return f'"{text}"' if quoted and (" " in text or not text) else text


class LossyStream:
    """Standard error, which may be a full disk or a closed pipe: a line that cannot be written is lost.

    A log line is written in the middle of commits and by threads that others wait for; it must never raise.
    """

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError, AttributeError):  # no space, a broken pipe; a stream closed before or since
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()


_level: str | None = None  # what `configure_logs` asked for, until the first line


def configure_logs(level: str = "INFO") -> None:
    """Call once at the start of a process. Silences libraries, whose log lines may quote datasets.

    structlog is imported, and configured, by the first line: most commands log none, and it is a tenth of their start.
    """
    global _level
    _level = level
    libraries = ("pynetdicom", "pydicom", "highdicom", "dicomweb_client", "urllib3", "apscheduler", "sqlalchemy")
    for name in (*libraries, "alembic", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):  # there is no standard error, or it is closed
        return False


def guard_standard_error() -> None:
    """Call once in a program: keep Python's and libraries' own output off standard error.

    Warnings, tracebacks and libraries' log lines may quote a dataset. Of an uncaught exception only the class and the
    location are printed.
    """
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())  # without a handler logging prints warnings
    stream = LossyStream()
    sys.excepthook = lambda _class, error, _trace: print(unexpected(error), file=stream)
    threading.excepthook = lambda args: print(unexpected(args.exc_value), file=stream)
    sys.unraisablehook = lambda args: print(unexpected(args.exc_value), file=stream)


def unexpected(error: BaseException | None) -> str:
    """A line about an unexpected exception, without its text."""
    fields = fault_fields(error) if error is not None else {"fault": "unknown", "at": ""}
    return f"worker: unexpected {fields['fault']} at {fields['at'] or 'an unknown location'}; please report this line"


def get_log() -> BoundLogger:
    """The logger: constant messages, facts in fields, row ids instead of identifiers."""
    global _level
    structlog, level = _structlog(), _level
    if level is not None:
        for_people = _is_terminal()
        stamp = structlog.processors.TimeStamper(*(("%H:%M:%S", False) if for_people else ("iso", True)))
        renderer = TerminalRenderer("NO_COLOR" not in os.environ) if for_people else structlog.processors.JSONRenderer()
        structlog.configure(
            processors=[stamp, structlog.processors.add_log_level, mask_identifiers, renderer],
            wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
            logger_factory=structlog.WriteLoggerFactory(file=LossyStream()),
            cache_logger_on_first_use=True,
        )
        _level = None
    log: BoundLogger = structlog.get_logger()
    return log


@cache
def _structlog() -> ModuleType:
    with without("rich", "better_exceptions", "colorama"):  # for a console, which the worker does not use
        import structlog
    return structlog


def fault_fields(error: BaseException) -> dict[str, str]:
    """The fields to log of an unexpected exception: its class and the innermost lines, never its text."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}:{code.co_name}")
        trace = trace.tb_next
    return {"fault": type(error).__name__, "at": " < ".join(reversed(frames[-5:]))}
