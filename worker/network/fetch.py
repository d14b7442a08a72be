"""Fetch studies from a PACS: C-FIND for what it has, then C-MOVE to our own Storage SCP (PS3.4 C.6.2, C.4.2).

What arrives comes over the PACS's own association, as everything else, so nothing here stores an image.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pydicom import Dataset
from pynetdicom import build_context
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove

from worker.config.sections import PeerSection
from worker.dicom import standard
from worker.errors import Retry
from worker.network.associate import associate
from worker.network.count_queries import associate_for_count, find_matches

MOST_STUDIES = 20  # of an accession number
_LONGEST_SECONDS = 4 * 3600.0
_SILENT_SECONDS = 600.0  # a PACS that brings a study from a tape says nothing meanwhile
_WILDCARDS = frozenset("*?\\")


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the PACS reports of a study: images that it sent us, that we refused, and those to come."""

    completed: int
    failed: int
    remaining: int


def find_studies(
    peer: PeerSection, ae_title: str, *, study_instance_uid: str = "", accession_number: str = ""
) -> list[str]:
    """The Study Instance UIDs that the PACS has of one of these keys. Raises Retry, ValueError for wildcards."""
    if not study_instance_uid and not accession_number:
        raise ValueError("a Study Instance UID or an accession number is needed")
    if study_instance_uid and not standard.is_uid(study_instance_uid):
        raise ValueError("this is no Study Instance UID")
    if _WILDCARDS & set(accession_number) or len(accession_number) > 16 or not accession_number.isprintable():
        raise ValueError("an accession number has 16 characters at most and no wildcards")
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = study_instance_uid
    identifier.AccessionNumber = accession_number
    assoc = associate_for_count(peer, ae_title)
    try:
        matches = find_matches(assoc, identifier, MOST_STUDIES, max(peer.timeout_seconds, 30.0))
    finally:
        if assoc.is_established:
            assoc.release()
    if matches is None:
        raise Retry("query-failed", f"{peer.ae_title} did not answer the query, or over {MOST_STUDIES} studies match")
    uids = dict.fromkeys(str(match.get("StudyInstanceUID", "")) for match in matches)
    return [uid for uid in uids if standard.is_uid(uid) and study_instance_uid in ("", uid)]


def fetch_study(
    peer: PeerSection,
    ae_title: str,
    study_instance_uid: str,
    progress: Callable[[Fetched], None] = lambda _fetched: None,
) -> Fetched:
    """Have the PACS send us a study; `progress` gets the counts of each response. Raises Retry with what to do."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = study_instance_uid
    model = StudyRootQueryRetrieveInformationModelMove
    assoc = associate(peer, ae_title, [build_context(model)], service="retrieval by C-MOVE")
    assoc.dimse_timeout = assoc.network_timeout = _SILENT_SECONDS
    deadline, fetched, code = time.monotonic() + _LONGEST_SECONDS, Fetched(0, 0, 0), None
    try:
        for status, _ in assoc.send_c_move(identifier, ae_title, model):
            code = status.get("Status")
            if code is None or time.monotonic() > deadline:
                break
            fetched = _counts(status, fetched)
            progress(fetched)
    except (RuntimeError, ValueError, TypeError):  # the association ended, or an answer is no dataset
        code = None
    finally:
        if assoc.is_established:
            if code is None or code in (standard.PENDING, standard.PENDING_WITH_WARNING):
                assoc.abort()
            else:
                assoc.release()
    if code in (standard.SUCCESS, standard.SUB_OPERATIONS_WITH_FAILURES):
        return fetched
    raise Retry("fetch-failed", _explain(code, peer, ae_title))


def _counts(status: Dataset, before: Fetched) -> Fetched:
    """The counts of a response (PS3.7 9.1.4.1); those that it does not have stay."""

    def number(keyword: str, otherwise: int) -> int:
        value = status.get(keyword)
        return value if isinstance(value, int) else otherwise

    completed = number("NumberOfCompletedSuboperations", before.completed)
    warned = number("NumberOfWarningSuboperations", 0)
    failed = number("NumberOfFailedSuboperations", before.failed)
    return Fetched(completed + warned, failed, number("NumberOfRemainingSuboperations", 0))


def _explain(code: int | None, peer: PeerSection, ae_title: str) -> str:
    name = peer.ae_title
    if code is None:
        return f"{name} ended the association or is silent: does it know '{ae_title}', and may we retrieve from it?"
    if code == standard.MOVE_DESTINATION_UNKNOWN:
        return f"{name} does not know '{ae_title}': register this AE title there, with our host and [receive] port"
    if code == standard.UNABLE_TO_PERFORM_SUB_OPERATIONS:
        return f"{name} could not send any image to us: is our host and [receive] port right there, and may it send?"
    return f"{name} answered status 0x{code:04X}"
