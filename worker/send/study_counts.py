"""Query a sender for what it has of a study: C-FIND, Study Root, Study level, then Series level (PS3.4 C.6.2).

In the send role, each peer in a thread of its own, so that a slow or unreachable peer delays neither a sender that
stores nor an answer: without a usable answer a study is answered after `[study] quiet_seconds`.

Number of Study Related Series and Instances tell at once that everything is here. Otherwise the series are listed: a
PACS has what the worker is never sent, reports, among them those of this worker, and series of other modalities.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta

from pydicom import Dataset
from pynetdicom.association import Association

from worker.config.sections import PeerSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.studies.counting import NO_ANSWER, StudyCount, held_series, record_study_count, studies_to_count
from worker.logs import get_log
from worker.network.count_queries import counted, counting, find_matches

RECOUNT = timedelta(seconds=5)
_MAXIMUM_STUDIES = 4  # of a query that a single study matches
_MAXIMUM_SERIES = 1000


def count_studies(database: Database, settings: Settings, peer: PeerSection, clock: Callable[[], datetime]) -> int:
    """Query the peer for every study that it sent and that is due; the number of studies."""
    patience = timedelta(seconds=settings.study.quiet_seconds + settings.study.incomplete_seconds)
    with database.read() as session:
        due = studies_to_count(session, peer.ae_title, clock(), patience, RECOUNT)
    if not due:
        return 0
    with counting(peer, settings.worker.ae_title, "study not counted") as assoc:
        for uid in due:
            counted_at = clock()
            with database.read() as session:
                held = held_series(session, uid)
            count = _query(assoc, uid, held, settings, peer.timeout_seconds) if assoc is not None else NO_ANSWER
            with database.write() as session:
                record_study_count(session, uid, peer.ae_title, counted_at, count)
            get_log().info(
                "study counted",
                peer=peer.ae_title,
                series=count.series,
                lacking_series=count.lacking_series,
                lacking_images=count.lacking_instances,
            )
    return len(due)


def _query(assoc: Association, uid: str, held: Mapping[str, int], settings: Settings, seconds: float) -> StudyCount:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = uid
    identifier.NumberOfStudyRelatedSeries = identifier.NumberOfStudyRelatedInstances = None
    matches = find_matches(assoc, identifier, _MAXIMUM_STUDIES, seconds) or ()
    studies = [match for match in matches if str(match.get("StudyInstanceUID", "")) == uid]
    if len(studies) == 1:  # Orthanc has several of a study with several patients
        numbers = [counted(studies[0], f"NumberOfStudyRelated{what}") for what in ("Series", "Instances")]
        if numbers == [len(held), sum(held.values())]:
            return StudyCount(len(held), 0, 0)
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "SERIES"
    identifier.StudyInstanceUID = uid
    identifier.SeriesInstanceUID = identifier.Modality = identifier.NumberOfSeriesRelatedInstances = None
    listed = find_matches(assoc, identifier, _MAXIMUM_SERIES, seconds)
    return compare_series(listed, held, settings.eligibility.modalities) if listed else NO_ANSWER


def compare_series(listed: Sequence[Dataset], held: Mapping[str, int], modalities: Collection[str]) -> StudyCount:
    """What a sender lists of a study, as far as it is of these modalities or here, against what is here.

    A series without a number of images counts as here if any image of it is. A sender that lists fewer images or series
    than are here contradicts itself: no answer, unless it has others besides.
    """
    lacking_series = lacking_instances = 0
    accepted = {modality.upper() for modality in modalities}
    expected: set[str] = set()
    has_less = False
    for match in listed:
        uid, modality = str(match.get("SeriesInstanceUID", "")), str(match.get("Modality", "") or "").strip().upper()
        if not uid or uid in expected or (uid not in held and modality and modality not in accepted):
            continue
        expected.add(uid)
        images = counted(match, "NumberOfSeriesRelatedInstances")
        here = held.get(uid, 0)
        if not here:
            lacking_series += images != 0
            lacking_instances += images or 0
        elif images is not None:
            lacking_instances += max(0, images - here)
            has_less = has_less or images < here
    has_less = has_less or not held.keys() <= expected
    if has_less and not lacking_series and not lacking_instances:
        return NO_ANSWER
    return StudyCount(len(expected), lacking_series, lacking_instances)
