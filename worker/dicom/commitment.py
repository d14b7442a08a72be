"""Storage commitment (PS3.4 Annex J): what the two sides write to each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pydicom import Dataset

from worker.errors import WorkerError

SOP_CLASS = "1.2.840.10008.1.20.1"  # Storage Commitment Push Model
SOP_INSTANCE = "1.2.840.10008.1.20.1.1"  # its well-known instance
REQUEST_ACTION = 1
ALL_STORED_EVENT = 1
SOME_FAILED_EVENT = 2
NO_SUCH_OBJECT = 0x0112
CLASS_INSTANCE_CONFLICT = 0x0119


class MalformedReport(WorkerError):
    """An N-ACTION or N-EVENT-REPORT without the elements of PS3.4 Table J.3-1 or J.3-3."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a peer says it has stored for good, and what not with the Failure Reason (0008,1197)."""

    transaction_uid: str
    committed: frozenset[str]
    failed: dict[str, int]


def request(transaction_uid: str, instances: Iterable[tuple[str, str]]) -> Dataset:
    """Action Information for (SOP class, SOP instance) pairs: PS3.4 Table J.3-1."""
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    ds.ReferencedSOPSequence = [_reference(*one) for one in instances]
    return ds


def read_report(information: Dataset) -> Report:
    """Event Information as a report: PS3.4 Table J.3-3. Raises MalformedReport."""
    try:
        return Report(
            transaction_uid=str(information.TransactionUID),
            committed=frozenset(
                str(one.ReferencedSOPInstanceUID) for one in information.get("ReferencedSOPSequence", [])
            ),
            failed={
                str(one.ReferencedSOPInstanceUID): int(one.get("FailureReason", 0x0110))
                for one in information.get("FailedSOPSequence", [])
            },
        )
    except (AttributeError, TypeError, ValueError):
        raise MalformedReport("malformed-report", "the storage commitment report lacks its identifiers") from None


def read_request(information: Dataset) -> tuple[str, list[tuple[str, str]]]:
    """Transaction UID and (SOP class, SOP instance) pairs of an N-ACTION. Raises MalformedReport."""
    try:
        pairs = [
            (str(one.ReferencedSOPClassUID), str(one.ReferencedSOPInstanceUID))
            for one in information.ReferencedSOPSequence
        ]
        return str(information.TransactionUID), pairs
    except (AttributeError, TypeError, ValueError):
        raise MalformedReport("malformed-request", "the storage commitment request lacks its identifiers") from None


def report(
    transaction_uid: str, committed: Iterable[tuple[str, str]], failed: Iterable[tuple[str, str, int]]
) -> Dataset:
    """Event Information: PS3.4 Table J.3-3; `failed` with the Failure Reason of PS3.3 C.14."""
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    kept = [_reference(*one) for one in committed]
    if kept:
        ds.ReferencedSOPSequence = kept
    lost = []
    for sop_class_uid, sop_instance_uid, reason in failed:
        item = _reference(sop_class_uid, sop_instance_uid)
        item.FailureReason = reason
        lost.append(item)
    if lost:
        ds.FailedSOPSequence = lost
    return ds


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item
