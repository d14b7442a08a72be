"""Answer the studies whose series are answered: claim, fuse, add the result; no pixel is read.

A process that dies at any line leaves the study open, with a lease that is released or expires; another attempt
computes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from worker.db.engine import Database
from worker.db.studies.answering import (
    StudyInputs,
    StudySeries,
    add_study_result,
    claim_study,
    latest_model,
    park_study,
    postpone_study,
    study_inputs,
    study_is_due,
)
from worker.db.tables import StudyRow
from worker.dicom.header import read_stored_header
from worker.inference.study.fusion import fuse, lesion_of
from worker.jobs.bundle_store import ServedModel
from worker.logs import fault_fields, get_log
from worker.results import Contribution, ResultStatus, SeriesAnswer, StudyResult

MIXED_PATIENTS, ANOTHER_MODEL = "mixed-patients", "another-model"
_FIRST_RETRY_SECONDS = 2.0


@dataclass(frozen=True)
class StudyRunner:
    """Answers studies, each by the model that answered its series. `quiet`: after the last change of a series."""

    database: Database
    data_dir: Path
    owner: str
    clock: Callable[[], datetime]
    lease: timedelta
    quiet: timedelta
    attempts: int

    def run_next(self, models: Mapping[int, ServedModel]) -> bool:
        """Answer a study by one of these models; False when none is due."""
        with self.database.read() as session:
            if not study_is_due(session, self.clock(), self.quiet):
                return False
        with self.database.write() as session:
            study = claim_study(session, self.owner, self.clock(), self.quiet, self.lease)
            if study is None:
                return False
            inputs = study_inputs(session, study.study_instance_uid)
            model_id = inputs.model_id or latest_model(session, study.id)
        if study.attempts > self.attempts:
            self._try_again(study, "process-died", "the processes that answered the study died")
            return True
        try:
            self._answer(study, inputs, model_id, models)
        except Exception as fault:  # a study's boundary: whatever happens to one study, the others go on
            get_log().error("study not answered", study_row=study.id, **fault_fields(fault))
            self._try_again(study, "fusion-fault", f"{type(fault).__name__} while the study was answered")
        return True

    def _answer(
        self, study: StudyRow, inputs: StudyInputs, model_id: int | None, models: Mapping[int, ServedModel]
    ) -> None:
        if model_id is not None and model_id not in models:
            # Another process may serve it; where none does, the study waits for its series to be answered again.
            self._try_again(study, "model-not-served", "no process that took the study serves the model of its series")
            return
        result = None if model_id is None else answer_study(inputs, model_id, models[model_id], self._numbers(inputs))
        with self.database.write() as session:
            row = add_study_result(session, study.id, inputs, model_id, result, self.clock())
        get_log().info(
            "study answered" if row else "study has no new answer",
            study_row=study.id,
            series=len(inputs.series),
            number=row.number if row else None,
            status=row.status if row else None,
            reason=row.reason if row else None,
        )

    def _numbers(self, inputs: StudyInputs) -> dict[str, int]:
        """The Series Number of each series that has such a number and a stored file."""
        found = {}
        for series in inputs.series:
            if series.file is not None and (number := read_series_number(self.data_dir / series.file)) is not None:
                found[series.series_instance_uid] = number
        return found

    def _try_again(self, study: StudyRow, reason: str, detail: str) -> None:
        with self.database.write() as session:
            if study.attempts >= self.attempts:
                park_study(session, study.id, self.owner, reason, detail)
                return
            wait = timedelta(seconds=_FIRST_RETRY_SECONDS * 2.0 ** (study.attempts - 1))
            postpone_study(session, study.id, self.owner, self.clock() + wait, reason, detail)


def read_series_number(path: Path) -> int | None:
    """The Series Number of a stored file; None where it has none, or cannot be read."""
    try:
        return int(str(read_stored_header(path, ("SeriesNumber",)).get("SeriesNumber", "")).strip())
    except (ValueError, OSError):
        return None


def answer_study(inputs: StudyInputs, model_id: int, model: ServedModel, numbers: Mapping[str, int]) -> StudyResult:
    """The answer for a study of what its series say; a study of several patients has none."""
    answers = [_series_answer(item, model_id, model, numbers) for item in inputs.series]
    patients = {tuple(part.strip().casefold() for part in item.patient) for item in inputs.series}
    if len(patients) > 1:
        return _mixed(answers, len(patients))
    return fuse(answers, model.identity, model.study)


def _series_answer(item: StudySeries, model_id: int, model: ServedModel, numbers: Mapping[str, int]) -> SeriesAnswer:
    """A series as fusion sees it; the result of another model is none."""
    basis = item.basis or {}
    other = item.model_id is not None and item.model_id != model_id
    lesion = basis.get("lesion_probability")
    return SeriesAnswer(
        series=item.series_instance_uid,
        number=numbers.get(item.series_instance_uid),
        sequence=basis.get("sequence") or item.sequence,
        plane=basis.get("plane") or item.plane,
        label=None if other else item.label,
        reason=ANOTHER_MODEL if other else item.reason,
        lesion_probability=None
        if other
        else lesion
        if lesion is not None
        else lesion_of(item.probabilities, model.identity),
        probabilities={} if other else dict(item.probabilities),
    )


def _mixed(answers: list[SeriesAnswer], patients: int) -> StudyResult:
    return StudyResult(
        status=ResultStatus.NOT_ASSESSED,
        label=None,
        probability=None,
        probabilities={},
        lesion_probability=None,
        reason=MIXED_PATIENTS,
        detail=f"The series of this study are of {patients} patients.",
        contradiction=None,
        contributions=tuple(Contribution(item, 0.0, False) for item in answers),
        deciding=None,
    )
