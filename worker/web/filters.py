"""The parameters that filter series, the same for the worklist and the REST interface."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from worker.db.tables import ReadState, SeriesStatus
from worker.db.views.search import POSITION_PATTERN, ListPosition, Search
from worker.dicom.series_terms import Contrast, Sequence
from worker.dicom.text.printable import LONGEST_TEXT

UID_PATTERN = r"^[0-9.]{1,64}$"  # PS3.5 9.1
LARGEST_NUMBER = 2**53 - 1  # the largest integer that every JSON parser reads exactly (RFC 7493 2.2)
LARGEST_PAGE = 500


# Any text without control characters; characters of a newer Unicode version are searched for like others.
Text = Annotated[str, Field(max_length=LONGEST_TEXT, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Uid = Annotated[str, Field(pattern=UID_PATTERN)]


Plane = Literal["axial", "coronal", "sagittal", "mixed", "unknown"]


class Filters(BaseModel):
    """Filters of which all must match; `since` and `until` are dates of receipt, both included.

    They are days in the server's time zone.
    """

    model_config = ConfigDict(extra="forbid")

    text: Text | None = Field(
        None,
        description="Words of a patient's name in any order, parts of a Patient ID or accession number, or a UID. "
        "Beginnings of names suffice; case and accents do not matter. No wildcards.",
    )
    patient_id: Text | None = None
    accession_number: Text | None = None
    study_instance_uid: Uid | None = None
    series_instance_uid: Uid | None = None
    label: Text | None = Field(None, description="A class of the model, for example glioma.")
    status: SeriesStatus | None = None
    since: date | None = None
    until: date | None = None
    minimum_probability: float | None = Field(None, ge=0, le=1)
    sequence: Sequence | None = Field(None, description="What the series shows by its headers, for example FLAIR.")
    contrast_agent: Contrast | None = Field(None, description="Whether the headers name a contrast agent.")
    plane: Plane | None = None
    reading: ReadState | None = Field(None, description="Whether a reader confirmed or corrected the result.")


class PagedFilters(Filters):
    """Filters, and which page: follow `older` and `newer` of an answer."""

    limit: int = Field(50, ge=1, le=LARGEST_PAGE)
    older_than: str | None = Field(None, pattern=POSITION_PATTERN, description="Where the previous page ended.")
    newer_than: str | None = Field(None, pattern=POSITION_PATTERN, description="Where the next page began.")

    def search(self) -> Search:
        chosen = self.model_dump(exclude={"limit", "older_than", "newer_than"})
        return Search(
            **chosen,
            older_than=ListPosition.parse(self.older_than) if self.older_than else None,
            newer_than=ListPosition.parse(self.newer_than) if self.newer_than else None,
        )
