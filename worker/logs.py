"""structlog, one JSON object a line on standard error. Identifiers are refused (architecture, invariant 6)."""

from __future__ import annotations

import logging
import re
import sys
import threading
import warnings
from collections.abc import MutableMapping
from typing import Any

from worker.imports import without

with without("rich", "better_exceptions", "colorama"):  # for a console that is not ours
    import structlog

_FORBIDDEN = ("patient", "accession", "uid", "name_of_patient", "birth")
# A UID, or a person name with its component delimiter, wherever it hides.
_IDENTIFIER = re.compile(r"\b[0-9]+(?:\.[0-9]+){4,}\b|[^\s^]+\^[^\s^]*")
REFUSED = "***"


def refuse_identifiers(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace whatever a field's name or a value's form gives away as an identifier."""
    for key, value in event.items():
        if any(word in key.lower() for word in _FORBIDDEN):
            event[key] = REFUSED
        elif isinstance(value, str):
            event[key] = _IDENTIFIER.sub(REFUSED, value)
    return event


def configure_logs(level: str = "INFO") -> None:
    """Call once at the start of a process. Libraries' own log lines may quote datasets, so they stay silent."""
    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.add_log_level,
            refuse_identifiers,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    libraries = ("pynetdicom", "pydicom", "highdicom", "dicomweb_client", "urllib3", "apscheduler", "sqlalchemy")
    for name in (*libraries, "alembic", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False


def guard_standard_error() -> None:
    """Call once in a program: keep off standard error what Python and libraries would print there by themselves.

    Warnings, tracebacks and a library's log lines may quote a dataset. Of an exception that nobody caught its class and
    place are told.
    """
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())  # without a handler logging prints warnings
    sys.excepthook = lambda _class, error, _trace: print(unexpected(error), file=sys.stderr)
    threading.excepthook = lambda found: print(unexpected(found.exc_value), file=sys.stderr)
    sys.unraisablehook = lambda found: print(unexpected(found.exc_value), file=sys.stderr)


def unexpected(error: BaseException | None) -> str:
    """One line without the exception's text."""
    fields = fault_fields(error) if error is not None else {"fault": "unknown", "at": ""}
    return f"worker: unexpected {fields['fault']} at {fields['at'] or 'an unknown place'}; please report this line"


def get_log() -> structlog.stdlib.BoundLogger:
    """The logger: constant message, facts in fields, row ids instead of identifiers."""
    log: structlog.stdlib.BoundLogger = structlog.get_logger()
    return log


def fault_fields(error: BaseException) -> dict[str, str]:
    """What may be logged of an unexpected exception: its class and the lines it passed, never its text."""
    frames = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}:{code.co_name}")
        trace = trace.tb_next
    return {"fault": type(error).__name__, "at": " < ".join(reversed(frames[-5:]))}
