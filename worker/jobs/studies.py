"""Answer the studies whose series are answered: claim, fuse, build the objects, add all of it in one transaction.

A process that dies at any line leaves the study open, with a lease that is released or expires; another attempt
computes the same and writes the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pydicom import Dataset

from worker.audit.events import RecordEvent, attributes_left_out, unrecorded
from worker.db.engine import Database
from worker.db.results import NewObject
from worker.db.studies.answering import (
    StudyInputs,
    StudyLineage,
    StudySeries,
    StudySettling,
    add_study_result,
    claim_study,
    latest_model,
    park_study,
    postpone_study,
    study_inputs,
    study_is_due,
    study_lineage,
)
from worker.db.tables import StudyRow
from worker.dicom.header import read_stored_header
from worker.dicom.text.printable import printable
from worker.errors import Park, Retry
from worker.inference.study.fusion import fuse, lesion_of, not_assessed
from worker.jobs.bundle_store import ServedModel
from worker.jobs.study_objects import StudyObjects
from worker.logs import fault_fields, get_log
from worker.reporting.outbox import MIXED_PATIENTS
from worker.reporting.source_attributes import integer_of, left_out, text_of
from worker.results import Contribution, ResultStatus, SeriesAnswer, StudyResult
from worker.stage_times import timed

ANOTHER_MODEL, MIXED_STUDIES = "another-model", "mixed-studies"
_FIRST_RETRY_SECONDS = 2.0


@dataclass(frozen=True)
class StudyRunner:
    """Answers studies, each by the model that answered its series."""

    database: Database
    data_dir: Path
    owner: str
    clock: Callable[[], datetime]
    lease: timedelta
    settling: StudySettling
    attempts: int
    objects: StudyObjects | None = None
    record: RecordEvent = unrecorded

    def run_next(
        self, models: Mapping[int, ServedModel], limited: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> bool:
        """Answer a study by one of these models; False when none is due. `limited`: the limit of time of an attempt."""
        with self.database.read() as session:
            if not study_is_due(session, self.clock(), self.settling):
                return False
        with timed("study", "claim"), self.database.write() as session:
            study = claim_study(session, self.owner, self.clock(), self.settling, self.lease)
            if study is None:
                return False
            inputs = study_inputs(session, study.study_instance_uid)
            model_id = inputs.model_id or latest_model(session, study.id)
            lineage = study_lineage(session, study.id)
        if study.attempts > self.attempts:
            self._try_again(study, "process-died", "the processes that answered the study died")
            return True
        try:
            with limited():
                self._answer(study, inputs, model_id, models, lineage)
        except Park as fault:
            with self.database.write() as session:
                park_study(session, study.id, self.owner, fault.reason, fault.detail)
            get_log().warning("study parked", study_row=study.id, reason=fault.reason)
        except (Retry, OSError, MemoryError) as fault:
            self._try_again(study, type(fault).__name__, "a passing fault of the machine")
        except Exception as fault:  # a study's boundary: whatever happens to one study, the others go on
            get_log().error("study not answered", study_row=study.id, **fault_fields(fault))
            self._try_again(study, "fusion-fault", f"{type(fault).__name__} while the study was answered or reported")
        return True

    def _answer(
        self,
        study: StudyRow,
        inputs: StudyInputs,
        model_id: int | None,
        models: Mapping[int, ServedModel],
        lineage: StudyLineage,
    ) -> None:
        if model_id is not None and model_id not in models:
            # Another process may serve it; where none does, the study waits for its series to be answered again.
            self._try_again(study, "model-not-served", "no process that took the study serves the model of its series")
            return
        objects, source = list[NewObject](), None
        model = None if model_id is None else models[model_id]
        with timed("study", "answer"):
            named = self._named(inputs)
            numbers = {uid: number for uid, (number, _) in named.items() if number is not None}
            result = answer_study(inputs, model_id, model, numbers)
        is_one_study = result.reason not in (MIXED_PATIENTS, MIXED_STUDIES)  # of others nothing is sent
        if model_id is not None and model is not None and self.objects is not None and is_one_study:
            descriptions = {uid: description for uid, (_, description) in named.items()}
            objects, source = self.objects.make(inputs, model_id, model, result, descriptions, lineage)
        destinations = self.objects.destinations if self.objects is not None else ()
        with timed("study", "commit"), self.database.write() as session:
            row = add_study_result(
                session, study.id, inputs, model_id, result, self.clock(), objects, destinations, lineage.number
            )
        get_log().info(
            "study answered" if row else "study has no new answer",
            study_row=study.id,
            series=len(inputs.series),
            number=row.number if row else None,
            status=row.status if row else None,
            reason=row.reason if row else None,
        )
        if row and source is not None and lineage.number == 1:
            self._note_left_out(study, source)

    def _named(self, inputs: StudyInputs) -> dict[str, tuple[int | None, str]]:
        """The Series Number and the Series Description of each series that has a stored file."""
        return {
            series.series_instance_uid: read_series_name(self.data_dir / series.file)
            for series in inputs.series
            if series.file is not None
        }

    def _note_left_out(self, study: StudyRow, source: Dataset) -> None:
        """Warn of the attributes that the study's objects lack, as they do not fit their value representations."""
        if keywords := left_out(source):
            get_log().warning(
                "attributes do not fit; left out of the report", study_row=study.id, attributes=", ".join(keywords)
            )
            self.record(attributes_left_out(self.owner, study.study_instance_uid, keywords))

    def _try_again(self, study: StudyRow, reason: str, detail: str) -> None:
        with self.database.write() as session:
            if study.attempts >= self.attempts:
                park_study(session, study.id, self.owner, reason, detail)
                return
            wait = timedelta(seconds=_FIRST_RETRY_SECONDS * 2.0 ** (study.attempts - 1))
            postpone_study(session, study.id, self.owner, self.clock() + wait, reason, detail)


def read_series_name(path: Path) -> tuple[int | None, str]:
    """The Series Number and Series Description of a stored file; None and empty where they cannot be read."""
    try:
        header = read_stored_header(path, ("SpecificCharacterSet", "SeriesNumber", "SeriesDescription"))
    except (ValueError, OSError):
        return None, ""
    return integer_of(header, "SeriesNumber"), printable(text_of(header, "SeriesDescription"))


def answer_study(
    inputs: StudyInputs, model_id: int | None, model: ServedModel | None, numbers: Mapping[str, int]
) -> StudyResult:
    """The answer for a study of what its series say; without a model, why it has none."""
    answers = [_series_answer(item, model_id, model, numbers) for item in inputs.series]
    patients = {item.patient for item in inputs.series if item.patient is not None}
    issuers = {item.issuer for item in inputs.series if item.issuer}
    return fuse_study(answers, max(len(patients), len(issuers)), model)


def _series_answer(
    item: StudySeries, model_id: int | None, model: ServedModel | None, numbers: Mapping[str, int]
) -> SeriesAnswer:
    """A series as fusion sees it; the result of another model is none."""
    basis = item.basis or {}
    other = item.model_id is not None and item.model_id != model_id
    lesion = basis.get("lesion_probability")
    if lesion is None and model is not None:
        lesion = lesion_of(item.probabilities, model.identity)
    return SeriesAnswer(
        series=item.series_instance_uid,
        number=numbers.get(item.series_instance_uid),
        sequence=basis.get("sequence") or item.sequence,
        plane=basis.get("plane") or item.plane,
        label=None if other else item.label,
        reason=ANOTHER_MODEL if other else item.reason,
        lesion_probability=None if other else lesion,
        probabilities={} if other else dict(item.probabilities),
    )


def fuse_study(answers: Sequence[SeriesAnswer], patients: int, model: ServedModel | None) -> StudyResult:
    """The answer for a study of its series; none where it holds several patients, or images of another study."""
    refused = {item.reason for item in answers}
    if patients > 1:
        return _refused(answers, MIXED_PATIENTS, f"The series of this study are of {patients} patients.")
    if MIXED_PATIENTS in refused:
        return _refused(answers, MIXED_PATIENTS, "A series of this study is of several patients.")
    if MIXED_STUDIES in refused:
        return _refused(answers, MIXED_STUDIES, "A series of this study has images of several studies.")
    return not_assessed(answers) if model is None else fuse(answers, model.identity, model.study)


def _refused(answers: Sequence[SeriesAnswer], reason: str, detail: str) -> StudyResult:
    return StudyResult(
        status=ResultStatus.NOT_ASSESSED,
        label=None,
        probability=None,
        probabilities={},
        lesion_probability=None,
        reason=reason,
        detail=detail,
        contradiction=None,
        contributions=tuple(Contribution(item, 0.0, False) for item in answers),
        deciding=None,
    )
