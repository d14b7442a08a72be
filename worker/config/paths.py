"""The type of a path in config.toml, which may be relative to the folder of that file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

_SQLITE = "sqlite:///"
_folder: ContextVar[Path | None] = ContextVar("the folder of the configuration file", default=None)


@contextmanager
def relative_to(folder: Path) -> Iterator[None]:
    """Inside, a section that is validated resolves its relative paths against this folder; outside, it leaves them."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def _resolve(path: Path) -> Path:
    folder = _folder.get()
    return folder / path if folder is not None else path


def _resolve_url(url: str) -> str:
    file = sqlite_path(url)
    return f"{_SQLITE}{_resolve(file)}" if file is not None else url


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite URL; None for another database."""
    return Path(url.removeprefix(_SQLITE)) if url.startswith(_SQLITE) else None


ConfigPath = Annotated[Path, AfterValidator(_resolve)]
DatabaseUrl = Annotated[str, AfterValidator(_resolve_url)]
