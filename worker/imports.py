"""Keep what a library would import if it found it out of a process that has no use for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# What pydicom loads with itself where it is installed, for pixels and for its test data: 38 MB, a quarter of a second.
PYDICOM_COMPANIONS = ("numpy", "gdcm", "pylibjpeg", "libjpeg", "openjpeg", "rle", "jpeg_ls", "PIL", "requests", "tqdm")


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Inside, these modules cannot be found, unless they are imported already; afterwards they can again."""
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None stands for "not found"
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
