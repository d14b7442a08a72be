"""Which studies a PACS has: C-FIND, Study Root (PS3.4 C.6.2)."""

from __future__ import annotations

from pydicom import Dataset

from worker.config.sections import PeerSection
from worker.dicom import standard
from worker.errors import Retry
from worker.network.count_queries import associate_for_count, find_matches

MOST_STUDIES = 20  # of an accession number
_WILDCARDS = frozenset("*?\\")


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
