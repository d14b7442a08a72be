"""`worker classify FOLDER`: the pipeline of the service without network and database."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from pydicom.uid import UID

from worker import results
from worker.config.routing import RouteSection
from worker.config.settings import Settings
from worker.db.instances import IDENTITY_KEY, NewInstance, input_sha256
from worker.db.results import Lineage
from worker.db.tables import ObjectKind, SeriesStatus
from worker.db.views.search import SeriesAnswer
from worker.dicom import standard
from worker.dicom.header import read_stored_header
from worker.dicom.series_attributes import TYPE_KEY
from worker.dicom.series_type import SeriesType, read_series_type
from worker.errors import NotAssessable, RefusedInstance, StartError
from worker.inference.illustrated import IllustratedResult, not_assessed
from worker.inference.study.fusion import series_answer
from worker.jobs.bundle_store import ServedModel
from worker.jobs.studies import fuse_study, read_series_name
from worker.logs import get_log
from worker.receive.completeness import describe_missing
from worker.receive.eligibility import SeriesRefusal, check_eligibility
from worker.receive.settle import check_identity
from worker.reporting.outbox import Outbox
from worker.reporting.secondary_capture import secondary_capture_png
from worker.reporting.source_attributes import SOURCE_KEYWORDS, left_out
from worker.results import ModelIdentity, StudyResult
from worker.storage.acceptance import read_instance, request_of_file


@dataclass(frozen=True, slots=True)
class Unread:
    """A file that is not a DICOM instance as a PACS sends them."""

    path: Path
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Written:
    """Where the objects of a series were written."""

    report: Path
    picture: Path
    png: Path

    @classmethod
    def below(cls, folder: Path) -> Written:
        """The files of a series whose folder this is."""
        return cls(folder / "report.dcm", folder / "picture.dcm", folder / "picture.png")


@dataclass(frozen=True, slots=True)
class OfflineAnswer:
    """The answer for a series; `written` is None where it was refused.

    `said` is the answer as that for its study sees it; `patients` and `studies` are those that its images name.
    """

    answer: SeriesAnswer
    written: Written | None
    said: results.SeriesAnswer
    patients: frozenset[tuple[str, str]]
    studies: frozenset[str]


def read_folder(
    folder: Path, routes: Sequence[RouteSection] = ()
) -> tuple[dict[str, list[tuple[Path, NewInstance]]], list[Unread]]:
    """Read the DICOM files below a folder (or one file): by series, and those that could not be read.

    The attributes of an instance include those that `routes` need. Raises StartError when the path does not exist.
    """
    return read_files(files_below([folder]), routes)


def files_below(folders: Iterable[Path]) -> list[Path]:
    """The files below each folder, sorted; a file stands for itself. Raises StartError when a path does not exist."""
    files: list[Path] = []
    for folder in folders:
        if not folder.exists():
            raise StartError("no-such-folder", f"{folder} does not exist")
        files += [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    return files


def read_files(
    files: Iterable[Path], routes: Sequence[RouteSection] = ()
) -> tuple[dict[str, list[tuple[Path, NewInstance]]], list[Unread]]:
    """As `read_folder`, of files."""
    series: dict[str, list[tuple[Path, NewInstance]]] = {}
    unread: list[Unread] = []
    seen: set[str] = set()
    for path in files:
        try:
            instance = describe_file(path, routes)
        except RefusedInstance as fault:
            unread.append(Unread(path, fault.reason, fault.detail))
            continue
        if instance.sop_instance_uid in seen:
            unread.append(repeated(path))
            continue
        seen.add(instance.sop_instance_uid)
        series.setdefault(instance.series_instance_uid, []).append((path, instance))
    return series, unread


def repeated(path: Path) -> Unread:
    """What is said of a file whose instance another file holds already."""
    return Unread(path, "repeated", "another file has the same SOP Instance UID")


def describe_file(path: Path, routes: Sequence[RouteSection] = ()) -> NewInstance:
    """Read the instance of a file, as the receiver would. Raises RefusedInstance; OSError when it cannot be read."""
    content = path.read_bytes()
    if content[128:132] != b"DICM":
        raise RefusedInstance(standard.CANNOT_UNDERSTAND, "not-dicom", "the file has no DICOM preamble")
    instance = read_instance(request_of_file(content), lambda _series, _content: str(path), routes)
    if instance.sop_class_uid not in standard.STORAGE_SOP_CLASSES:
        name = UID(instance.sop_class_uid).name
        raise RefusedInstance(standard.DATASET_MISMATCH, "sop-class", f"{name} is not accepted")
    return instance


def classify_series(
    members: Sequence[tuple[Path, NewInstance]],
    settings: Settings,
    model: ServedModel,
    out: Path,
    moment: datetime,
) -> OfflineAnswer:
    """Refuse or classify one series; its report, picture and PNG are written below `out`."""
    paths = [path for path, _ in members]
    attributes = [instance.attributes for _, instance in members]
    missing = describe_missing(attributes, None)
    refused = check_identity([instance[IDENTITY_KEY] for instance in attributes])
    series_type = read_series_type(attributes)
    refused = refused or check_eligibility(attributes, settings.eligibility, series_type)
    if refused is None and missing is not None and settings.eligibility.refuse_incomplete:
        refused = SeriesRefusal("incomplete", missing)
    if refused is not None:
        answer = _answer(
            members, model.identity, moment, SeriesStatus.REFUSED, None, refused.reason, refused.detail, series_type
        )
        return _offline(members, answer, None, None, model)
    try:
        result = model.classify(paths, [instance[TYPE_KEY] for instance in attributes])
    except NotAssessable as fault:
        result = not_assessed(fault)
    result = replace(result, missing=missing, series_type=series_type.in_words)
    digest = input_sha256([instance for _, instance in members])
    written = Written.below(out)
    for made in Outbox(out).make_objects(result, model.identity, paths, digest, Lineage(), moment):
        os.replace(out / made.path, written.report if made.kind == ObjectKind.REPORT else written.picture)
    shutil.rmtree(out / "objects")
    if keywords := left_out(read_stored_header(paths[0], SOURCE_KEYWORDS)):
        get_log().warning("attributes do not fit; left out of the report", attributes=", ".join(keywords))
    written.png.write_bytes(secondary_capture_png(result, model.identity))
    answer = _answer(
        members, model.identity, moment, SeriesStatus(result.status), result, result.reason, result.detail, series_type
    )
    return _offline(members, answer, written, result, model)


def failed_series(
    members: Sequence[tuple[Path, NewInstance]], model: ServedModel, moment: datetime, reason: str, detail: str
) -> OfflineAnswer:
    """The answer for a series that could not be classified, though it was tried."""
    series_type = read_series_type([instance.attributes for _, instance in members])
    answer = _answer(members, model.identity, moment, SeriesStatus.FAILED, None, reason, detail, series_type)
    return _offline(members, answer, None, None, model)


def _offline(
    members: Sequence[tuple[Path, NewInstance]],
    answer: SeriesAnswer,
    written: Written | None,
    result: IllustratedResult | None,
    model: ServedModel,
) -> OfflineAnswer:
    uid, (number, _) = answer.series_instance_uid, read_series_name(members[0][0])
    if result is None:
        said = results.SeriesAnswer(uid, number, answer.sequence, answer.plane, None, answer.reason, None, {})
    else:
        said = series_answer(uid, number, result, model.identity)
        said = replace(said, sequence=said.sequence or answer.sequence, plane=said.plane or answer.plane)
    identities = [instance.attributes[IDENTITY_KEY] for _, instance in members]
    patients = frozenset((identity["patient"], identity.get("name", "")) for identity in identities)
    return OfflineAnswer(answer, written, said, patients, frozenset(identity["study"] for identity in identities))


def fuse_studies(answers: Sequence[OfflineAnswer], model: ServedModel) -> dict[str, StudyResult]:
    """The answer for each study, by its UID, of the answers for its series; none for a study of several patients."""
    by_study: dict[str, list[OfflineAnswer]] = {}
    for offline in answers:
        for uid in sorted(offline.studies):
            by_study.setdefault(uid, []).append(offline)
    fused = {}
    for uid, members in by_study.items():
        patients = {patient for offline in members for patient in offline.patients}
        fused[uid] = fuse_study([offline.said for offline in members], len(patients), model)
    return fused


def _answer(
    members: Sequence[tuple[Path, NewInstance]],
    model: ModelIdentity,
    moment: datetime,
    status: SeriesStatus,
    result: IllustratedResult | None,
    reason: str | None,
    detail: str | None,
    series_type: SeriesType,
) -> SeriesAnswer:
    first = members[0][1]
    return SeriesAnswer(
        series_instance_uid=first.series_instance_uid,
        study_instance_uid=first.study_instance_uid,
        patient_id=first.patient_id,
        patient_name=first.patient_name,
        accession_number=first.accession_number,
        study_date=first.study_date,
        modality=first.modality,
        series_description=first.series_description,
        instances=len(members),
        status=status,
        label=result.label if result else None,
        probability=result.probability if result else None,
        probabilities=dict(result.probabilities) if result else {},
        reason=reason,
        detail=detail,
        model=f"{model.name} {model.version}" if result else None,
        model_sha256=model.sha256 if result else None,
        created_at=moment,
        received_at=moment,
        deliveries=(),
        missing=result.missing if result else None,
        sequence=str(series_type.sequence),
        contrast_agent=str(series_type.contrast_agent),
        plane=series_type.plane,
        series_type=series_type.as_json(),
    )
