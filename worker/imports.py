"""Keep a library's optional imports out of processes that do not need them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Imported by pydicom if installed, for pixels and for its test data: 38 MB, a quarter of a second.
PYDICOM_COMPANIONS = ("numpy", "gdcm", "pylibjpeg", "libjpeg", "openjpeg", "rle", "jpeg_ls", "PIL", "requests", "tqdm")


@contextmanager
def without(*names: str) -> Iterator[None]:
    """A context in which these modules cannot be imported, unless they have been imported before."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None stands for "not found"
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
