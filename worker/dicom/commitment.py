"""Storage commitment (PS3.4 Annex J): the datasets that the two sides exchange."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO

from pydicom import Dataset

from worker.errors import WorkerError

SOP_CLASS = "1.2.840.10008.1.20.1"  # Storage Commitment Push Model
SOP_INSTANCE = "1.2.840.10008.1.20.1.1"  # its well-known instance
REQUEST_ACTION = 1
ALL_STORED_EVENT = 1
SOME_FAILED_EVENT = 2
NO_SUCH_OBJECT = 0x0112
CLASS_INSTANCE_CONFLICT = 0x0119
_ITEM = b"\xfe\xff\x00\xe0"  # the tag of an item, PS3.5 7.5


class MalformedCommitment(WorkerError):
    """An N-ACTION or N-EVENT-REPORT without the elements of PS3.4 Table J.3-1 or J.3-3."""


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """The instances that a peer has committed to store, and those that it has not, by Failure Reason (0008,1197)."""

    transaction_uid: str
    committed: frozenset[str]
    failed: dict[str, int]


def build_request(transaction_uid: str, instances: Iterable[tuple[str, str]]) -> Dataset:
    """Action Information for (SOP class, SOP instance) pairs: PS3.4 Table J.3-1."""
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    ds.ReferencedSOPSequence = [_reference(*instance) for instance in instances]
    return ds


def count_items(encoded: BytesIO | None) -> int:
    """At least as many as the items of all sequences of an encoded dataset, Little Endian; nothing is decoded."""
    return encoded.getvalue().count(_ITEM) if encoded is not None else 0


def read_request(information: Dataset) -> tuple[str, list[tuple[str, str]]]:
    """Transaction UID and (SOP class, SOP instance) pairs of an N-ACTION. Raises MalformedCommitment."""
    try:
        # A reference that is repeated counts once.
        instances = list(
            dict.fromkeys(
                (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))
                for item in information.ReferencedSOPSequence
            )
        )
        return str(information.TransactionUID), instances
    except (AttributeError, TypeError, ValueError):
        raise MalformedCommitment("malformed-request", "the storage commitment request lacks its identifiers") from None


def build_report(
    transaction_uid: str, committed: Iterable[tuple[str, str]], failed: Iterable[tuple[str, str, int]]
) -> Dataset:
    """Event Information: PS3.4 Table J.3-3; `failed` with the Failure Reason of PS3.3 C.14."""
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    committed_items = [_reference(*instance) for instance in committed]
    if committed_items:
        ds.ReferencedSOPSequence = committed_items
    failed_items = []
    for sop_class_uid, sop_instance_uid, reason in failed:
        item = _reference(sop_class_uid, sop_instance_uid)
        item.FailureReason = reason
        failed_items.append(item)
    if failed_items:
        ds.FailedSOPSequence = failed_items
    return ds


def read_report(information: Dataset) -> CommitmentReport:
    """Event Information as a report: PS3.4 Table J.3-3. Raises MalformedCommitment."""
    try:
        return CommitmentReport(
            transaction_uid=str(information.TransactionUID),
            committed=frozenset(
                str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence", [])
            ),
            failed={
                str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason", 0x0110))
                for item in information.get("FailedSOPSequence", [])
            },
        )
    except (AttributeError, TypeError, ValueError):
        raise MalformedCommitment("malformed-report", "the storage commitment report lacks its identifiers") from None


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item
