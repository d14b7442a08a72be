"""The newest images of a series and a study say whose they are: what they name counts from then on.

A PACS that corrects a patient's name sends what comes later with the new name, and does not always send again what came
before. The Patient ID is the same: with another the images are another patient's, and refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from worker.db.engine import Session
from worker.db.instances import IDENTITY_KEY
from worker.db.studies.identity import person_before
from worker.db.tables import InstanceRow, SeriesRow
from worker.errors import RefusedInstance
from worker.storage.acceptance import read_instance, request_of_file
from worker.storage.spool import FileContent

_TAKEN = ("patient_name", "accession_number", "study_date")


def take_newest(
    session: Session,
    series: SeriesRow,
    instances: Sequence[InstanceRow],
    data_dir: Path,
    now: datetime,
    pseudonym: Callable[[str], str] | None = None,
) -> bool:
    """Give a series what its newest image says of patient and study; whether that is another than before.

    `instances`: all of the series, of one patient. A newest image whose file is gone or unreadable changes nothing.
    """
    ordered = sorted(instances, key=lambda instance: (instance.received_at, instance.id))
    persons = [_person(instance) for instance in ordered]
    if not persons[-1]:
        return False
    others = [index for index, person in enumerate(persons) if person and person != persons[-1]]
    since = ordered[others[-1] + 1 if others else 0].received_at  # the newest say the same from then on
    is_known = series.attributes_changed_at is not None and series.attributes_changed_at >= since
    if is_known or (not others and person_before(session, series) in (None, persons[-1])):
        return False
    if others and not _describe(series, ordered[-1], data_dir, pseudonym):
        return False
    series.attributes_changed_at = now
    session.flush()
    return True


def _person(instance: InstanceRow) -> str:
    return str(instance.attributes.get(IDENTITY_KEY, {}).get("person", ""))


def _describe(series: SeriesRow, newest: InstanceRow, data_dir: Path, pseudonym: Callable[[str], str] | None) -> bool:
    """Describe a series as its newest image does; False where that cannot be read."""
    try:
        request = request_of_file(FileContent(str(data_dir / newest.path), newest.size, newest.sha256))
        new = read_instance(request, lambda _series, _sha256: newest.path, pseudonym=pseudonym)
    except (RefusedInstance, OSError):
        return False
    for name in _TAKEN:
        setattr(series, name, getattr(new, name))
    return True
