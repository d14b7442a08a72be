"""The tables of the standard agree with pydicom's and pynetdicom's, and UIDs are derived as they always were."""

from __future__ import annotations

import pytest
from pydicom.uid import UID
from pynetdicom import sop_class
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from worker.dicom import standard
from worker.dicom.standard import derive_uid, failure_meaning, is_uid, produced_series_uid


@pytest.mark.parametrize(
    "uid", [*standard.STORAGE_SOP_CLASSES, *standard.PRODUCED_SOP_CLASSES, standard.COMPREHENSIVE_SR]
)
def test_storage_sop_classes_are_those_of_the_standard(uid: str) -> None:
    assert UID(uid).type == "SOP Class"
    assert "Storage" in UID(uid).name


def test_transfer_syntaxes_are_those_of_the_standard() -> None:
    assert all(UID(uid).is_transfer_syntax for uid in standard.TRANSFER_SYNTAXES)


def test_information_models_begin_at_their_highest_level() -> None:
    for uid, level in standard.QUERY_RETRIEVE.items():
        assert level.title() in UID(uid).name.split(" Root")[0]
        assert uid in vars(sop_class).values()


def test_failure_statuses_of_c_store_are_those_of_the_standard() -> None:
    for status in (
        standard.PROCESSING_FAILURE, standard.SOP_CLASS_NOT_SUPPORTED, standard.OUT_OF_RESOURCES,
        standard.DATASET_MISMATCH, standard.CANNOT_UNDERSTAND,
    ):  # fmt: skip
        assert STORAGE_SERVICE_CLASS_STATUS[status][0] == "Failure"


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (0xA700, "out of resources"),
        (0xA7FF, "out of resources"),
        (0xA900, "data set does not match the SOP class"),
        (0xC000, "cannot understand"),
        (0xC122, "transfer syntax not supported"),  # the exact status before its range
        (0xCFFF, "cannot understand"),
        (0x0111, "duplicate SOP instance"),
        (0x0124, "not authorised"),
        (0x0999, "failure"),
    ],
)
def test_the_meaning_of_a_status(status: int, meaning: str) -> None:
    assert failure_meaning(status) == meaning


@pytest.mark.parametrize("uid", ["1", "1.2.840.10008.1.2", "1.02.3", "2.25." + "9" * 39, "1" * 64])
def test_uids_that_are_accepted(uid: str) -> None:
    assert is_uid(uid)


@pytest.mark.parametrize("uid", ["", "1.", ".1", "1..2", "1.2 ", "1.a", "1.2\\1.3", "1.2\n", "1" * 65, "१.२"])
def test_texts_that_are_no_uid(uid: str) -> None:
    assert not is_uid(uid)


def test_uids_are_derived_as_in_every_earlier_version() -> None:
    """A PACS knows our objects by these."""
    assert derive_uid("a", "b") == "2.25.123685846294819377998962900632807243553"
    assert produced_series_uid("report", "1.2.3", "ab" * 32) == derive_uid("report-series", "1.2.3", "ab" * 32)
    assert derive_uid("a", "b") != derive_uid("ab") != derive_uid("b", "a")
    assert is_uid(derive_uid("a"))


def test_an_object_is_stored_by_success_or_with_a_warning() -> None:
    statuses = (standard.SUCCESS, standard.COERCED, 0xB007, standard.PENDING, 0xA700, standard.DUPLICATE_SOP_INSTANCE)
    assert [standard.is_stored(status) for status in statuses] == [True, True, True, False, False, False]
