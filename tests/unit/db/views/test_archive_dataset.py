"""The attributes of an entry, as the database has them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydicom.uid import MRImageStorage

from worker.db.engine import Database
from worker.db.views.archive import match_instances, match_series, match_studies
from worker.db.views.archive_dataset import Entry, to_dataset
from worker.db.views.archive_matching import Keys
from worker.dicom.standard import derive_uid

STUDY = {
    "StudyInstanceUID": derive_uid("study", "a"),
    "StudyDate": "20260301",
    "PatientID": "ID-a",
    "PatientName": "Müller_x^Ada=山田",
    "AccessionNumber": "ACC-a",
    "InstanceAvailability": "ONLINE",
}
NUMBERS = {
    "ModalitiesInStudy": ["CT", "MR", "SR"],
    "NumberOfStudyRelatedSeries": 3,
    "NumberOfStudyRelatedInstances": 4,
}
SERIES = {"SeriesInstanceUID": derive_uid("series", "a"), "Modality": "MR"}
INSTANCE = {"SOPInstanceUID": derive_uid("instance", "a", "1"), "SOPClassUID": MRImageStorage}


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (match_studies, STUDY | NUMBERS),
        (
            match_series,
            STUDY | NUMBERS | SERIES | {"SeriesDescription": "t1", "NumberOfSeriesRelatedInstances": 2},
        ),
        (
            match_instances,
            STUDY | SERIES | INSTANCE,
        ),
    ],
)  # fmt: skip
def test_an_entry_has_its_attributes_and_those_above(
    archive: Database, match: Callable[..., list[Entry]], expected: dict[str, object]
) -> None:
    keys = Keys(
        study_instance_uids=(derive_uid("study", "a"),),
        series_instance_uids=(derive_uid("series", "a"),),
        sop_instance_uids=(derive_uid("instance", "a", "1"),),
    )
    with archive.read() as session:
        [entry] = match(session, keys)
    ds = to_dataset(entry)
    assert {element.keyword: element.value for element in ds} == expected


def test_a_produced_series_leaves_its_description_to_its_file(archive: Database) -> None:
    with archive.read() as session:
        [series] = match_series(session, Keys(modalities=("SR",)))
    assert "SeriesDescription" not in to_dataset(series)
    assert to_dataset(series).Modality == "SR"
