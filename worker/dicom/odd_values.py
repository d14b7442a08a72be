"""Values that their representation forbids (PS3.5 6.2): scanners write them, so they are read and passed on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydicom import Dataset, config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement


@contextmanager
def ignore_value_warnings() -> Iterator[None]:
    """pydicom's warnings quote values (architecture, invariant 6), and odd ones are the peer's or the scanner's."""
    with warnings.catch_warnings(action="ignore"):
        yield


@ignore_value_warnings()
def add_value(ds: Dataset, keyword: str, value: Any) -> None:
    """Add an element with its value unchanged, or without a value where pydicom cannot hold it."""
    try:
        ds.add(DataElement(keyword, dictionary_VR(keyword), value, validation_mode=config.IGNORE))
    except (ValueError, TypeError):
        ds.add(DataElement(keyword, dictionary_VR(keyword), None))


@ignore_value_warnings()
def remove_unreadable(ds: Dataset) -> None:
    """Remove the elements whose values cannot be read: a single bad number of a scanner makes no query fail."""
    for tag in list(ds.keys()):
        try:
            ds[tag]
        except Exception:  # hostile bytes may raise anything in a parser; such an element is as good as absent
            del ds[tag]
