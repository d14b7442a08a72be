"""A worker's data folder as after some days: a head classified by the shipped model, and series with every outcome.

The head goes the whole way through inference and the outbox; the others have rows and no files.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydicom import dcmread
from sqlalchemy import select
from sqlalchemy.orm import Session

from tests.testbed import phantom
from tests.testbed.databases import make_tables
from tests.testbed.instances import new_instance
from tests.testbed.serving import one_model
from worker.config.settings import Settings
from worker.db.deliveries import claim_deliveries, end_delivery
from worker.db.engine import Database
from worker.db.instances import add_instance, open_association
from worker.db.jobs import claim_job, end_job
from worker.db.models import model_row
from worker.db.results import NewObject, add_result
from worker.db.series import lock_open_series, queue_series, refuse_series
from worker.db.studies.answering import StudySettling, add_study_result, claim_study, study_inputs
from worker.db.tables import DeliveryState, InstanceRow, JobRow, JobState, ObjectKind, SeriesRow
from worker.dicom.standard import derive_uid
from worker.inference.illustrated import IllustratedResult
from worker.jobs.bundle_store import BundleStore, ServedModel
from worker.jobs.runner import JobRunner
from worker.jobs.studies import StudyRunner, answer_study
from worker.jobs.study_objects import StudyObjects
from worker.reporting.outbox import Outbox
from worker.results import ModelIdentity, ResultStatus, SliceResult
from worker.send.destinations.c_store import CStoreDestination
from worker.storage.integrity import Integrity

LEASE = timedelta(seconds=30)
OWNER = "test:1"
FAMILY_NAMES = (
    "Abara", "Bergström", "Castillo", "Dimitrova", "Eriksen", "Fontaine", "Grabowski", "Haddad", "Ionescu", "Jansen",
    "Kowalski", "Lindqvist", "Moreau", "Nakamura", "Okafor", "Petrov", "Quispe", "Rossi", "Schneider", "Tanaka",
)  # fmt: skip
# Description, sequence, contrast agent and plane of the series that a study may have; a localizer is refused.
PROTOCOL = (
    ("T1 axial post contrast", "T1", "with", "axial"), ("FLAIR axial", "FLAIR", "without", "axial"),
    ("T2 TSE axial", "T2", "without", "axial"), ("T1 MPRAGE", "T1", "without", "sagittal"),
    ("DWI b1000", "DWI", "without", "axial"),
)  # fmt: skip
GIVEN_NAMES = ("Ada", "Boris", "Chiara", "Deniz", "Elin", "Farid", "Greta", "Hugo", "Ines", "Jonas")


@dataclass(frozen=True)
class Filled:
    """What is there: Series Instance UIDs by what became of them."""

    settings: Settings
    database: Database
    study: str
    mass: str
    refused: str
    failed: str
    pending: str


def fill(folder: Path, now: datetime, others: int = 75, key_objects: bool = False) -> Filled:
    """Make the folder; `others` studies without files are spread over the last week."""
    settings = Settings.model_validate(
        {
            "worker": {"data_dir": folder / "var"},
            "database": {"url": f"sqlite:///{folder / 'var' / 'worker.db'}"},
            "web": {"require_token": False},
            "destination": [
                CStoreDestination(name="pacs", ae_title="ARCHIVE", host="127.0.0.1", port=9),
                CStoreDestination(name="research", ae_title="RESEARCH", host="127.0.0.1", port=9),
            ],
        }
    )
    database = Database(settings.database.url)
    make_tables(database)
    model = BundleStore(settings).load_configured()
    site = _Site(settings, database, model.identity, random.Random(7), now)
    site.add_others(others)
    site.answer_studies(model)
    mass = site.receive_head("Fontaine^Hugo")
    site.receive_head("Fontaine^Hugo", flair=True)
    site.receive_localizer("Fontaine^Hugo")
    data_dir, models = settings.worker.data_dir, one_model(database, model.identity, model.classify, site.before)
    outbox = Outbox(data_dir, ("pacs",) if key_objects else (), level="study")
    runner = JobRunner(
        database=database, data_dir=data_dir, models=models, outbox=outbox, destinations=["pacs", "research"],
        owner=OWNER, clock=lambda: now - timedelta(seconds=40), lease=LEASE, timeout=None, attempts=3,
    )  # fmt: skip
    while runner.run_next():
        pass
    integrity = Integrity(database, data_dir, lambda: now)
    of_study = StudyObjects(database, data_dir, outbox, integrity, ["pacs", "research"])
    clock = lambda: now - timedelta(seconds=35)  # noqa: E731
    StudyRunner(database, data_dir, OWNER, clock, LEASE, StudySettling(timedelta()), 3, of_study).run_next(
        {key: replace(served, study=model.study) for key, served in models.current().items()}
    )
    site.deliver()
    return Filled(settings, database, site.study, mass, **site.add_last())


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The application on a free port of 127.0.0.1; its address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, name="web")
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the web server did not start")
            thread.join(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@dataclass
class _Site:
    settings: Settings
    database: Database
    model: ModelIdentity
    random: random.Random
    now: datetime
    study: str = ""
    numbers: dict[str, int] = field(default_factory=dict)  # of series

    @property
    def before(self) -> datetime:
        """Before anything came."""
        return self.now - timedelta(days=8)

    def receive_head(self, person: str, *, flair: bool = False) -> str:
        """A head with a mass as the receiver leaves it: files, rows, a job. The FLAIR is of the study of the first."""
        attributes = {
            "PatientName": person,
            "PatientID": "P-274215",
            "AccessionNumber": "A3190587",
            "SeriesNumber": 5 if flair else 7,
        }
        if flair:
            attributes |= {"StudyInstanceUID": self.study, "SeriesInstanceUID": derive_uid("series", "flair")}
        folder = self.settings.worker.data_dir / "instances" / ("flair" if flair else "head")
        paths = phantom.head_series(folder, mass=True, attributes=attributes, flair=flair)
        series_id = self._receive(paths, self.now - timedelta(seconds=52))
        with self.database.write() as session:
            self._queue(session, series_id, self.now - timedelta(seconds=52), PROTOCOL[1] if flair else PROTOCOL[0])
        first = dcmread(paths[0], stop_before_pixels=True)
        self.study = str(first.StudyInstanceUID)
        return str(first.SeriesInstanceUID)

    def receive_localizer(self, person: str) -> None:
        """The scout of that head, which is refused."""
        moment = self.now - timedelta(seconds=55)
        attributes = {
            "PatientName": person, "PatientID": "P-274215", "AccessionNumber": "A3190587", "SeriesNumber": 1,
            "StudyInstanceUID": self.study,
        }  # fmt: skip
        folder = self.settings.worker.data_dir / "instances" / "scout"
        series_id = self._receive(phantom.localizer(folder, attributes=attributes), moment)
        with self.database.write() as session:
            series = lock_open_series(session, series_id, moment)
            if series is not None:
                refuse_series(series, "localizer", "the image type says localizer", moment)

    def _receive(self, paths: list[Path], moment: datetime) -> int:
        """A series as the receiver leaves it: files in the data folder, and rows; the row id of the series."""
        with self.database.write() as session:
            for path in paths:
                ds = dcmread(path, stop_before_pixels=True)
                new = new_instance(
                    sop_instance_uid=ds.SOPInstanceUID, series_instance_uid=ds.SeriesInstanceUID,
                    study_instance_uid=ds.StudyInstanceUID, patient_id=ds.PatientID, patient_name=str(ds.PatientName),
                    accession_number=ds.AccessionNumber, series_description=ds.SeriesDescription,
                    study_date=f"{self.now:%Y%m%d}", path=str(path.relative_to(self.settings.worker.data_dir)),
                    size=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                )  # fmt: skip
                series_id = add_instance(session, new, moment).series_id
        return series_id

    def add_others(self, count: int) -> None:
        labels = [label.name for label in self.model.labels if label.is_lesion]
        outcomes = [*labels, "notumor", "notumor", "not-assessed", "refused"]
        with self.database.write() as session:
            for number in range(count):
                age = timedelta(days=7) * (1 - number / count) + timedelta(minutes=20)
                outcome, common = self.random.choice(outcomes), self._patient(self.now - age)
                kinds = self.random.sample(PROTOCOL, 1 if outcome == "refused" else self.random.randrange(1, 5))
                for place, kind in enumerate(kinds):
                    said = outcome if self.random.random() < 0.85 or outcome == "refused" else "notumor"
                    name = f"other {number} {place}"
                    study = {"study_instance_uid": derive_uid("study", f"other {number}")}
                    uid = self._add_other(session, said, age, name, common | study, kind)
                    self.numbers[uid] = 3 + 2 * place

    def add_last(self) -> dict[str, str]:
        """One refused, one failed and one pending series, the newest."""
        outcomes = ("refused", "failed", "pending")
        with self.database.write() as session:
            open_association(session, "MR_SCANNER_1", "10.1.7.20:51120", "here:1", self.now - timedelta(minutes=1))
            open_association(session, "ARCHIVE", "10.1.7.5:40022", "here:1", self.now - timedelta(minutes=4))
            last = {
                name: self._add_other(
                    session, name, timedelta(minutes=9 - place), name, self._patient(self.now), PROTOCOL[0]
                )
                for place, name in enumerate(outcomes)
            }
        self._add_files(last["refused"])
        return last

    def _add_files(self, series_instance_uid: str) -> None:
        """Files for a series that has rows only, so that its pictures can be shown."""
        paths = phantom.localizer(self.settings.worker.data_dir / "instances" / "last")
        with self.database.write() as session:
            rows = session.scalars(
                select(InstanceRow)
                .join(SeriesRow, SeriesRow.id == InstanceRow.series_id)
                .where(SeriesRow.series_instance_uid == series_instance_uid)
            )
            for row, path in zip(rows.all(), paths, strict=True):
                content = path.read_bytes()
                row.path = str(path.relative_to(self.settings.worker.data_dir))
                row.size, row.sha256 = len(content), hashlib.sha256(content).hexdigest()

    def _patient(self, moment: datetime) -> dict[str, Any]:
        """Whose a study is, and when it was made."""
        return {
            "patient_id": f"P-{self.random.randrange(10**6):06d}",
            "patient_name": f"{self.random.choice(FAMILY_NAMES)}^{self.random.choice(GIVEN_NAMES)}",
            "accession_number": f"A{self.random.randrange(10**7):07d}",
            "study_date": f"{moment:%Y%m%d}",
        }

    def _add_other(
        self, session: Session, outcome: str, age: timedelta, name: str, whose: dict[str, Any], kind: tuple[str, ...]
    ) -> str:
        """A series of three images that nobody has; the time it took is made up, too."""
        moment = self.now - age
        is_refused = outcome == "refused"
        common = whose | {
            "series_description": "CT head" if is_refused else kind[0],
            "modality": "CT" if is_refused else "MR",
        }
        images = [new_instance(number, name, **common) for number in range(1, 4)]
        rows = [add_instance(session, one, moment) for one in images]
        if outcome == "refused":
            series = lock_open_series(session, rows[0].series_id, moment)
            if series is not None:
                refuse_series(series, "modality", "modality CT is not one of MR", moment)
        elif outcome != "pending":
            self._queue(session, rows[0].series_id, moment, kind)
            job = claim_job(session, OWNER, self._model_id(session), moment, LEASE)
            if job is None:
                raise ValueError("no job to claim")
            ids = {one.sop_instance_uid: row.id for one, row in zip(images, rows, strict=True)}
            self._answer(session, job, outcome, ids, name, moment)
        return images[0].series_instance_uid

    def _answer(
        self, session: Session, job: JobRow, outcome: str, ids: dict[str, int], name: str, moment: datetime
    ) -> None:
        if outcome == "failed":
            detail = "the inference process died"
            end_job(session, job.id, OWNER, JobState.PARKED, moment, reason="process-died", detail=detail)
            return
        done = moment + timedelta(seconds=self.random.lognormvariate(1.6, 0.5))
        end_job(session, job.id, OWNER, JobState.DONE, done)
        objects = [
            NewObject(kind, "1.2.840.10008.5.1.4.1.1.7", derive_uid(kind, name), f"objects/none/{name}.dcm", "0" * 64)
            for kind in (ObjectKind.REPORT, ObjectKind.PICTURE)
        ]
        add_result(session, job, self._result(outcome, list(ids)), ids, objects, ["pacs"], done)

    def deliver(self) -> None:
        """One destination takes what is due, the other cannot be reached."""
        moment = self.now - timedelta(seconds=30)
        ends: dict[str, dict[str, Any]] = {
            "pacs": {"state": DeliveryState.DELIVERED, "status": 0, "delivered_at": moment},
            "research": {
                "state": DeliveryState.PENDING, "not_before": self.now + timedelta(minutes=4),
                "reason": "peer-unavailable", "detail": "no association with 127.0.0.1:9",
            },
        }  # fmt: skip
        with self.database.write() as session:
            for destination, end in ends.items():
                for delivery, _ in claim_deliveries(session, destination, OWNER, moment, LEASE, 1000):
                    end_delivery(session, delivery.id, OWNER, end)

    def answer_studies(self, model: ServedModel) -> None:
        """What the study runner does, at once."""
        with self.database.write() as session:
            while study := claim_study(session, OWNER, self.now, StudySettling(timedelta()), LEASE):
                inputs = study_inputs(session, study.study_instance_uid)
                model_id = inputs.model_id
                result = answer_study(inputs, model_id, model, self.numbers) if model_id is not None else None
                add_study_result(session, study.id, inputs, model_id, result, self.now - timedelta(seconds=20))

    def _queue(self, session: Session, series_id: int, moment: datetime, kind: tuple[str, ...]) -> None:
        series = lock_open_series(session, series_id, moment)
        if series is None:
            raise ValueError("the series is not open")
        _, series.sequence, series.contrast_agent, series.plane = kind
        queue_series(session, series, self._model_id(session), moment)

    def _model_id(self, session: Session) -> int:
        return model_row(session, self.model, self.before).id

    def _result(self, outcome: str, sop_instance_uids: list[str]) -> IllustratedResult:
        labels = {one.name: one for one in self.model.labels}
        likely = labels.get(outcome, self.model.classes[0])
        probability = 0.62 + 0.37 * self.random.random()
        parts = [one == likely or (likely == self.model.undetermined and one.is_lesion) for one in self.model.classes]
        share, rest = probability / sum(parts), (1 - probability) / parts.count(False)
        probabilities = {one.name: share if part else rest for one, part in zip(self.model.classes, parts, strict=True)}
        slices = tuple(
            SliceResult("1.2.840.10008.5.1.4.1.1.4", uid, None, 6.0 * place, tuple(probabilities.values()), True, True)
            for place, uid in enumerate(sop_instance_uids)
        )
        classified = IllustratedResult(
            ResultStatus.CLASSIFIED, likely.name, probability, probabilities, None, None, slices
        )
        if outcome in labels:
            return classified
        return replace(
            classified, status=ResultStatus.NOT_ASSESSED, label=None, probability=None, reason="out-of-distribution",
            detail="0 of 3 slices resemble the brain MRI that the model was trained on.", probabilities={},
        )  # fmt: skip
