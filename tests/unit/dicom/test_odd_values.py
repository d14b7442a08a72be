"""Values that their representation forbids."""

from __future__ import annotations

import warnings

from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from worker.dicom.odd_values import add_value, ignore_value_warnings, remove_unreadable


def test_a_value_is_added_as_it_is_or_not_at_all() -> None:
    ds = Dataset()
    with warnings.catch_warnings(action="error"):
        add_value(ds, "StudyDate", "1.3.2026")
        add_value(ds, "StudyID", "much longer than sixteen characters")
        add_value(ds, "SeriesNumber", "one")
    assert (ds.StudyDate, ds.StudyID) == ("1.3.2026", "much longer than sixteen characters")
    assert ds.SeriesNumber is None


def test_an_element_that_cannot_be_read_is_removed_and_the_others_stay() -> None:
    ds = Dataset()
    ds.Columns = 16
    ds[Tag("Rows")] = RawDataElement(Tag("Rows"), "US", 1, b"\1", 0, False, True)
    remove_unreadable(ds)
    assert list(ds.keys()) == [Tag("Columns")]


def test_a_warning_that_quotes_a_value_is_not_shown() -> None:
    with warnings.catch_warnings(action="error"), ignore_value_warnings():
        warnings.warn("CANARY^NAME", stacklevel=1)
