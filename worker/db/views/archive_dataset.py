"""What the database knows of a study, a series or an instance, as the attributes of a search's answer."""

from __future__ import annotations

from typing import Any

from pydicom import Dataset

from worker.db.views.archive import Instance, Series, Study
from worker.dicom.odd_values import add_value

Entry = Study | Series | Instance


def to_dataset(entry: Entry) -> Dataset:
    """The attributes of an entry and of the levels above it, as they were searched."""
    study = entry.study if isinstance(entry, Series) else entry
    values: dict[str, Any] = {
        "StudyInstanceUID": study.study_instance_uid,
        "StudyDate": study.study_date,
        "PatientID": study.patient_id,
        "PatientName": study.patient_name,
        "AccessionNumber": study.accession_number,
        "InstanceAvailability": "ONLINE" if entry.path else "UNAVAILABLE",  # PS3.3 C.4.23.1.1
    }
    if isinstance(study, Study):
        values["ModalitiesInStudy"] = list(study.modalities)
        values["NumberOfStudyRelatedSeries"] = study.series
        values["NumberOfStudyRelatedInstances"] = study.instances
    if isinstance(entry, Series):
        values["NumberOfSeriesRelatedInstances"] = entry.instances
        if entry.description:
            values["SeriesDescription"] = entry.description
    if not isinstance(entry, Study):
        values |= {"SeriesInstanceUID": entry.series_instance_uid, "Modality": entry.modality}
    if isinstance(entry, Instance):
        values |= {"SOPInstanceUID": entry.sop_instance_uid, "SOPClassUID": entry.sop_class_uid}
    ds = Dataset()
    for keyword, value in values.items():
        add_value(ds, keyword, value)
    return ds
