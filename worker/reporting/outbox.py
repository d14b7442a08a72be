"""Build the objects of a result that go back to the PACS, and write them to disk.

The caller commits the result, the objects and their deliveries in one transaction (architecture, invariant 4). A file
written before a crash is written again, under the same derived UID, by the next attempt.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypedDict

from pydicom import Dataset

from worker import __version__
from worker.config.sections import Level
from worker.db.results import Lineage, NewObject
from worker.db.studies.answering import StudyLineage
from worker.db.tables import ObjectKind
from worker.dicom import header
from worker.dicom.standard import derive_uid, produced_series_uid
from worker.files import fsync, write_atomically
from worker.inference.illustrated import IllustratedResult, KeyImage
from worker.reporting.encoding import encode
from worker.reporting.object_names import STUDY_TITLE, object_title, study_series_number
from worker.reporting.secondary_capture import (
    build_key_object_selection,
    build_secondary_capture,
    build_selection,
    build_study_capture,
    burned_in_of,
)
from worker.reporting.source_attributes import SOURCE_KEYWORDS, HostZone, take_patient_and_study
from worker.reporting.sr import build_report
from worker.reporting.sr_document import Identity
from worker.reporting.study_sr import build_study_report, source_images
from worker.results import ModelIdentity, ReportedStudy, ResultStatus
from worker.stage_times import timed

# Why a series is not assessed whatever the model; a PACS needs no report of that.
REASONS_OF_THE_SERIES = frozenset({
    "mixed-planes", "mixed-sizes", "duplicate-positions", "not-an-image", "no-images", "blank-image", "too-few-slices",
    "image-too-small", "image-too-large", "wrong-modality", "not-dicom", "no-pixel-data", "pixel-data-truncated",
    "pixel-data-unreadable", "unsupported-transfer-syntax", "not-a-brain", "sequence-not-supported",
    "sequence-contradiction", "incomplete",
})  # fmt: skip

MIXED_PATIENTS = "mixed-patients"  # of a study whose series are of several patients


class _Made(TypedDict):
    """What tells an object that is made of a series from the others, and from those of other times."""

    series_instance_uid: str
    sop_instance_uid: str
    created_at: datetime
    worker_version: str


@dataclass(frozen=True, slots=True)
class Outbox:
    """Writes the objects of results below `data_dir`/objects: report, Secondary Capture and, where wanted, key objects.

    `level`: of results for studies, for series, or for both.
    `key_objects_to`, `pictures_to`: the names of the destinations for Key Object Selections and Secondary Captures;
    `pictures_to` None: all of them. Without `not_assessed` nothing is made of a series that is not assessed for a
    reason of its own, unless a report of it is to be replaced.
    """

    data_dir: Path
    key_objects_to: tuple[str, ...] = ()
    pictures_to: tuple[str, ...] | None = None
    not_assessed: bool = True
    level: Level = "both"

    def make_objects(
        self,
        result: IllustratedResult,
        model: ModelIdentity,
        sources: Sequence[Path],
        input_sha256: str,
        lineage: Lineage,
        created_at: datetime,
    ) -> list[NewObject]:
        """Build and write the objects of a series; none where `level` or `not_assessed` forbids it.

        `sources`: the files of the job, the newest last, whose attributes of patient and study are reported.
        """
        if self.level == "study":
            return []
        if not self.not_assessed and not lineage.predecessors and result.reason in REASONS_OF_THE_SERIES:
            return []
        with timed("series", "report"):
            received = [read_header(path, SOURCE_KEYWORDS) for path in sources]
            headers = _in_stack_order(result, received)
            take_patient_and_study(headers[0], received[-1])
            series_uid = str(headers[0].SeriesInstanceUID)

            def identity_of(kind: ObjectKind) -> _Made:
                return {
                    "series_instance_uid": produced_series_uid(kind, series_uid, model.sha256, lineage.other_study),
                    "sop_instance_uid": derive_uid(kind.value, series_uid, input_sha256, model.sha256),
                    "created_at": created_at.astimezone(HostZone()),
                    "worker_version": __version__,
                }

            predecessors = [read_header(self.data_dir / path) for path in lineage.predecessors]
            identity = identity_of(ObjectKind.REPORT)
            report = build_report(result, model, headers, predecessors=predecessors, **identity)
        with timed("series", "picture"):
            picture = build_secondary_capture(result, model, headers, **identity_of(ObjectKind.PICTURE))
        with timed("series", "write"):
            selection = None
            if self.key_objects_to and _has_key_objects(result):
                identity = identity_of(ObjectKind.KEY_OBJECTS)
                selection = build_key_object_selection(result, model, headers, **identity)
            return self._write_objects(report, picture, selection)

    def make_study_objects(
        self,
        study: ReportedStudy,
        model: ModelIdentity,
        source: Dataset,
        key_images: Sequence[KeyImage],
        shown: Sequence[Dataset],
        input_sha256: str,
        lineage: StudyLineage,
        created_at: datetime,
    ) -> list[NewObject]:
        """Build and write the objects of a study. Call it where `reports_study` says so.

        `source`: the header whose patient and study they have. `key_images`: slices of the deciding series, of which
        `shown` are the headers.
        """
        uid = study.study_instance_uid
        identity = (uid, input_sha256, model.sha256, str(lineage.number))

        def identity_of(kind: ObjectKind) -> Identity:
            return Identity(
                series_instance_uid=produced_series_uid(kind, uid, model.sha256),
                sop_instance_uid=derive_uid(f"study-{kind}", *identity),
                series_number=study_series_number(kind),
                series_description=object_title(STUDY_TITLE, kind),
                created_at=created_at.astimezone(HostZone()),
                worker_version=__version__,
            )

        with timed("study", "report"):
            predecessors = [read_header(self.data_dir / path) for path in lineage.predecessors]
            report = build_study_report(study, model, source, identity_of(ObjectKind.REPORT), predecessors=predecessors)
        with timed("study", "picture"):
            burned_in = burned_in_of(shown) if shown else "NO"
            picture = build_study_capture(study, model, source, key_images, identity_of(ObjectKind.PICTURE), burned_in)
        with timed("study", "write"):
            selection = None
            deciding = study.deciding
            if self.key_objects_to and deciding is not None and study.result.label is not None and deciding.key_slices:
                selection = build_selection(
                    [item for _, item in deciding.key_slices],
                    model,
                    source_images(study, deciding),
                    source,
                    identity_of(ObjectKind.KEY_OBJECTS),
                )
            return self._write_objects(report, picture, selection)

    def reports_study(self, study: ReportedStudy, lineage: StudyLineage) -> bool:
        """Whether objects are made of a study: not of several patients, nor where `level` or `not_assessed` forbids it.

        Nor where no image of it was read, as all its series were refused or failed since.
        Without `not_assessed` a study is reported that is assessed, whose series disagree, or of which a series is not
        assessed for a reason of the model's.
        """
        result = study.result
        has_images = any(series.images for series in study.series)
        if self.level == "series" or result.reason == MIXED_PATIENTS or not has_images:
            return False
        if self.not_assessed or lineage.predecessors or result.deciding is not None:
            return True
        reasons = [series.contribution.answer.reason for series in study.series if series.images]
        return any(reason not in REASONS_OF_THE_SERIES for reason in reasons)

    def _write_objects(self, report: Dataset, picture: Dataset, selection: Dataset | None) -> list[NewObject]:
        objects = [
            self._write(ObjectKind.REPORT, report),
            self._write(ObjectKind.PICTURE, picture, only_to=self.pictures_to),
        ]
        if selection is not None:
            objects.append(self._write(ObjectKind.KEY_OBJECTS, selection, only_to=self.key_objects_to))
        return objects

    def _write(self, kind: ObjectKind, ds: Dataset, only_to: tuple[str, ...] | None = None) -> NewObject:
        content = encode(ds)
        name, sha256 = hashlib.sha256(str(ds.SOPInstanceUID).encode()).hexdigest()[:32], hashlib.sha256(content)
        # Named by its content too: a process that was suspended and lost its lease must not change, by a rounding
        # difference between processors, the file that a row of the process that took over refers to.
        path = f"objects/{name[:2]}/{name}-{sha256.hexdigest()[:16]}.dcm"
        file = self.data_dir / path
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
        fsync(file.parent.parent)
        return NewObject(
            kind=kind,
            sop_class_uid=str(ds.SOPClassUID),
            sop_instance_uid=str(ds.SOPInstanceUID),
            path=path,
            sha256=sha256.hexdigest(),
            only_to=only_to,
        )


def read_header(path: Path, keywords: Sequence[str] | None = None) -> Dataset:
    """The dataset of a stored file without its pixels; only the elements named by `keywords`, if given."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # malformed values of the source; what is copied is sanitised
        with path.open("rb") as file:
            return header.read_header(file, keywords)


def _has_key_objects(result: IllustratedResult) -> bool:
    """Whether the result has key objects: slices that led to no class are none."""
    return result.status == ResultStatus.CLASSIFIED and any(item.deciding for item in result.slices)


def _in_stack_order(result: IllustratedResult, headers: list[Dataset]) -> list[Dataset]:
    order = {item.sop_instance_uid: index for index, item in reversed(list(enumerate(result.slices)))}
    return sorted(headers, key=lambda header: order.get(str(header.SOPInstanceUID), len(order)))
