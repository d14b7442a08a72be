"""The objects of the answer for a study: what the report needs, from rows and files, which the outbox builds into it.

Deterministic: a second attempt builds the same bytes. A file that retention deleted is left out of the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset

from worker.db.engine import Database
from worker.db.instances import StoredFile
from worker.db.results import NewObject
from worker.db.studies.answering import StudyInputs, StudyLineage
from worker.db.studies.contents import SeriesContents, study_contents
from worker.db.studies.identity import newest_image
from worker.errors import NotAssessable, Park
from worker.inference.display import StoredSlice, stored_key_images
from worker.inference.illustrated import KeyImage
from worker.jobs.bundle_store import ServedModel
from worker.logs import get_log
from worker.reporting.draw_study import KEY_IMAGES
from worker.reporting.outbox import Outbox, read_header
from worker.reporting.source_attributes import SOURCE_KEYWORDS, take_patient_and_study
from worker.results import Contribution, ModelIdentity, ReportedSeries, ReportedStudy, SliceResult, StudyResult
from worker.stage_times import timed
from worker.storage.integrity import Integrity


@dataclass(frozen=True)
class StudyObjects:
    """Makes the objects of studies with an outbox; `destinations` are the names of those that they are queued for."""

    database: Database
    data_dir: Path
    outbox: Outbox
    integrity: Integrity
    destinations: Sequence[str] = ()

    def make(
        self,
        inputs: StudyInputs,
        model_id: int,
        model: ServedModel,
        result: StudyResult,
        descriptions: Mapping[str, str],
        lineage: StudyLineage,
    ) -> tuple[list[NewObject], Dataset | None]:
        """The objects, and the header whose patient and study they have; none where the outbox makes none of it.

        `descriptions` by Series Instance UID, where a file of the series has any. Raises FaultyFile for a damaged file,
        Park where no file of the study is left.
        """
        with self.database.read() as session:
            contents = study_contents(session, inputs.study_instance_uid, model_id)
            newest = newest_image(session, inputs.study_instance_uid)
        series = tuple(
            _reported(item, contents[item.answer.series], descriptions.get(item.answer.series))
            for item in result.contributions
        )
        study = ReportedStudy(inputs.study_instance_uid, result, series, model.study.in_words)
        if inputs.answered_at is None or not self.outbox.reports_study(study, lineage):
            return [], None
        with timed("study", "read"):
            source = self._source(study, contents, lineage)
            if newest is not None:
                self.integrity.require([newest])
                take_patient_and_study(source, read_header(self.data_dir / newest.path, SOURCE_KEYWORDS))
            slices = self._key_slices(study, contents)
            files = list(contents[result.deciding].files.values()) if result.deciding is not None else []
            key_images = self._key_images(slices, files, with_maps=_shows_maps(study, model.identity))
            shown = [read_header(self.data_dir / file.path, SOURCE_KEYWORDS) for _, _, file in slices if key_images]
        objects = self.outbox.make_study_objects(
            study, model.identity, source, key_images, shown, inputs.sha256, lineage, inputs.answered_at
        )
        return objects, source

    def _source(self, study: ReportedStudy, contents: Mapping[str, SeriesContents], lineage: StudyLineage) -> Dataset:
        """The header of an image of the deciding series, or of another series that was read; or the former report."""
        deciding = study.result.deciding
        for uid in sorted(contents, key=lambda uid: (uid != deciding, uid)):
            for file in contents[uid].files.values():
                self.integrity.require([file])
                return read_header(self.data_dir / file.path, SOURCE_KEYWORDS)
        for path in lineage.predecessors:
            return read_header(self.data_dir / path, SOURCE_KEYWORDS)
        raise Park("file-missing", "no image of the study is stored any more")

    def _key_slices(
        self, study: ReportedStudy, contents: Mapping[str, SeriesContents]
    ) -> list[tuple[int, SliceResult, StoredFile]]:
        """The key slices of the deciding series that the picture shows, whose files are stored and whole."""
        if study.deciding is None:
            return []
        files = contents[study.deciding.contribution.answer.series].files
        stored = [
            (number, item, files[item.sop_instance_uid])
            for number, item in study.deciding.key_slices
            if item.sop_instance_uid in files
        ]
        shown = [stored[index] for index in _spread(len(stored), KEY_IMAGES)]
        self.integrity.require([file for _, _, file in shown])
        return shown

    def _key_images(
        self, slices: Sequence[tuple[int, SliceResult, StoredFile]], files: Sequence[StoredFile], *, with_maps: bool
    ) -> list[KeyImage]:
        """None where a file cannot be decoded, though it was when its series was classified."""
        stored = [
            StoredSlice(
                number - 1, self.data_dir / file.path, item.frame_number, item.activation if with_maps else None
            )
            for number, item, file in slices
        ]
        try:
            return stored_key_images(stored, [self.data_dir / file.path for file in files])
        except NotAssessable as fault:
            get_log().warning("the picture of a study has no slices", reason=fault.reason)
            return []


def _reported(contribution: Contribution, contents: SeriesContents, description: str | None) -> ReportedSeries:
    is_assessed = contribution.answer.label is not None
    return ReportedSeries(
        contribution=contribution,
        description=contents.description if description is None else description,
        contrast_agent=contents.contrast_agent,
        images=contents.images,
        slices=contents.slices,
        key_slices=contents.key_slices if is_assessed else (),
    )


def _shows_maps(study: ReportedStudy, model: ModelIdentity) -> bool:
    """Maps are those of a lesion that the deciding series found; none where the study has none."""
    labels = [study.deciding.contribution.answer.label if study.deciding is not None else None, study.result.label]
    return labels[0] is not None and all(model.class_named(label).is_lesion for label in labels if label is not None)


def _spread(count: int, most: int) -> list[int]:
    """At most so many indices, evenly spread over `count`."""
    return list(range(count)) if count <= most else [round(step * (count - 1) / (most - 1)) for step in range(most)]
