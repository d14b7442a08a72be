"""The keys of a search that the database matches, as conditions in SQL: exactly as worker.dicom.matching matches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from typing import cast as typing_cast

from pydicom.datadict import keyword_for_tag
from sqlalchemy import ColumnElement, and_, exists, false, not_, or_, select
from sqlalchemy.orm import Session, aliased

from worker.db.engine import is_any_of
from worker.db.tables import ObjectKind, ObjectRow, ResultRow, SeriesRow, StudyResultRow, StudyRow
from worker.dicom import matching
from worker.dicom.text.names import matches_name, name_patterns
from worker.dicom.text.printable import LONGEST_TEXT, is_storable
from worker.dicom.text.wildcards import has_wildcard

# The modality of each kind of produced object: PS3.3 C.7.3.1.1.1.
MODALITIES = {ObjectKind.REPORT: "SR", ObjectKind.PICTURE: "OT", ObjectKind.KEY_OBJECTS: "KO"}


@dataclass(frozen=True, slots=True)
class Keys:
    """Matching keys: any value of a key may match; a key without values matches everything.

    `patient_ids` and `accession_numbers` are those of the files: where the database stores pseudonyms, these are looked
    up.
    """

    study_instance_uids: tuple[str, ...] = ()
    series_instance_uids: tuple[str, ...] = ()
    sop_instance_uids: tuple[str, ...] = ()
    sop_class_uids: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()  # of the series; of any series where studies are searched
    modalities_in_study: tuple[str, ...] = ()  # of any series of the study
    patient_ids: tuple[str, ...] = ()
    patient_names: tuple[str, ...] = ()
    accession_numbers: tuple[str, ...] = ()
    study_dates: tuple[str, ...] = ()


# The keys that the database matches, by keyword.
KEYS_IN_DATABASE = {
    "StudyInstanceUID": "study_instance_uids",
    "SeriesInstanceUID": "series_instance_uids",
    "SOPInstanceUID": "sop_instance_uids",
    "SOPClassUID": "sop_class_uids",
    "Modality": "modalities",
    "ModalitiesInStudy": "modalities_in_study",
    "PatientID": "patient_ids",
    "PatientName": "patient_names",
    "AccessionNumber": "accession_numbers",
    "StudyDate": "study_dates",
}


def split_keys(keys: Iterable[matching.Key]) -> tuple[Keys, tuple[matching.Key, ...]]:
    """The keys that the database matches, and those for which the header of a file must be read."""
    in_database: dict[str, tuple[str, ...]] = {}
    others = []
    for key in keys:
        name = KEYS_IN_DATABASE.get(keyword_for_tag(key.tag))
        if name is None or key.item:
            others.append(key)
        else:
            in_database[name] = key.values
    return Keys(**in_database), tuple(others)


def of_study(session: Session, keys: Keys) -> list[ColumnElement[bool]]:
    """The conditions that a series' study matches the keys of a patient and a study."""
    conditions = is_among(SeriesRow.study_instance_uid, keys.study_instance_uids)
    conditions += has_modality(session, keys.modalities_in_study)
    pseudonym: Callable[[str], str] | None = session.info.get("pseudonym")
    for column, values in (
        (SeriesRow.patient_id, keys.patient_ids),
        (SeriesRow.accession_number, keys.accession_numbers),
    ):
        # An answer contains the pseudonym, so a key may be a pseudonym too.
        pseudonyms = () if pseudonym is None else tuple(pseudonym(value) for value in values)
        conditions += is_like(session, column, values + pseudonyms)
    if keys.patient_names:
        conditions.append(_has_name(session, keys.patient_names))
    if keys.study_dates:
        conditions.append(or_(*[_is_in_range(session, SeriesRow.study_date, value) for value in keys.study_dates]))
    return conditions


def _has_name(session: Session, values: Sequence[str]) -> ColumnElement[bool]:
    """Narrow the stored names by SQL; where that is not exact, the matcher decides on each name that remains."""
    certain: list[ColumnElement[bool]] = []
    key = SeriesRow.name_key
    doubtful: list[ColumnElement[bool]] = [and_(key == "", SeriesRow.patient_name != "")]  # too long, or without text
    has_groups = key.contains("=")
    for value in values:
        patterns = name_patterns(value)
        single = [and_(not_(has_groups), condition) for condition in is_like(session, key, patterns.single)]
        (certain if patterns.is_exact else doubtful).extend(single)
        doubtful.append(and_(has_groups, *is_like(session, key, patterns.grouped)))
    narrowed = select(SeriesRow.patient_name).distinct().where(or_(*doubtful))
    names = [name for name in session.scalars(narrowed) if any(matches_name(value, name) for value in values)]
    return or_(*certain, is_any_of(session, SeriesRow.patient_name, names))


def is_like(session: Session, column: Any, values: Sequence[str]) -> list[ColumnElement[bool]]:
    """Wildcard matching of any of these values, case-sensitive on every database; no condition without values."""
    return [or_(*[_is_like_value(session, column, value) for value in values])] if values else []


def _is_like_value(session: Session, column: Any, value: str) -> ColumnElement[bool]:
    if not is_storable(value):
        return false()  # PostgreSQL takes no NUL
    if not has_wildcard(value):
        return typing_cast("ColumnElement[bool]", column == value)
    value = re.sub(r"\*+", "*", value)
    if len(value.replace("*", "")) > LONGEST_TEXT:
        return false()  # SQLite takes no pattern of 50 kB
    if not _is_postgresql(session):
        return typing_cast("ColumnElement[bool]", column.op("GLOB", is_comparison=True)(value.replace("[", "[[]")))
    pattern = re.sub(r"([\\%_])", r"\\\1", value).replace("*", "%").replace("?", "_")
    return typing_cast("ColumnElement[bool]", column.like(pattern, escape="\\"))


def _is_in_range(session: Session, column: Any, value: str) -> ColumnElement[bool]:
    """Match a date, or a range of dates."""
    if not value.isprintable():
        return false()
    if "-" not in value:
        return typing_cast("ColumnElement[bool]", column == value)
    first, last = matching.date_range(value)
    ordered = column.collate("C") if _is_postgresql(session) else column
    return and_(column != "", ordered >= first, ordered <= last)


def _is_postgresql(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def is_among(column: Any, values: Sequence[str]) -> list[ColumnElement[bool]]:
    """The condition that a column has any of these values; no condition without values."""
    return [column.in_([value for value in values if value.isprintable()])] if values else []


def of_modality(modalities: Sequence[str]) -> list[ColumnElement[bool]]:
    """The condition that a produced object is of any such modality; no condition without values."""
    kinds = [
        kind
        for kind, modality in MODALITIES.items()
        if any(matching.matches_value("CS", value, modality) for value in modalities)
    ]
    return [ObjectRow.kind.in_(kinds)] if modalities else []


def has_modality(session: Session, modalities: Sequence[str]) -> list[ColumnElement[bool]]:
    """The condition that the study of a series has a series of such a modality."""
    if not modalities:
        return []
    other = aliased(SeriesRow)
    same_study = other.study_instance_uid == SeriesRow.study_instance_uid
    # Each correlates with the series alone: the query around it may have objects and results of its own.
    received = exists().where(same_study, *is_like(session, other.modality, modalities)).correlate(SeriesRow)
    produced = (
        exists()
        .where(
            same_study, ResultRow.series_id == other.id, ObjectRow.result_id == ResultRow.id, *of_modality(modalities)
        )
        .correlate(SeriesRow)
    )
    of_study = (
        exists()
        .where(
            StudyRow.study_instance_uid == SeriesRow.study_instance_uid,
            StudyResultRow.study_id == StudyRow.id,
            ObjectRow.study_result_id == StudyResultRow.id,
            *of_modality(modalities),
        )
        .correlate(SeriesRow)
    )
    return [or_(received, produced, of_study)]
