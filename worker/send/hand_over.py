"""Hand a study over: its images are sent to another node, which confirms each, and only then deleted here.

Confirmed is what was answered with success, and committed to where storage commitment is configured. Killed anywhere,
the same command completes it: what had been taken is recorded before anything is deleted (db.operating.hand_overs).
"""

from __future__ import annotations

import hashlib
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from worker.audit import events
from worker.config.sections import ApplicationEntity
from worker.config.settings import Settings
from worker.db.deliveries import record_commitment_report
from worker.db.engine import Database, Session
from worker.db.operating import hand_overs
from worker.db.operating.deleting import StudyInUse, held_instances, lock_study_to_delete
from worker.db.views.archive import Instance, match_instances
from worker.db.views.archive_matching import Keys
from worker.dicom import standard
from worker.errors import StartError, WorkerError
from worker.network.known_peers import resolve
from worker.send.destinations import destinations_of
from worker.send.destinations.base import Destination
from worker.send.push import push_files
from worker.storage.deletion import DeletedStudy, delete_study
from worker.storage.integrity import Integrity
from worker.wording import counted

_REFERENCES = 5_000  # of a request for storage commitment
_LOOK_SECONDS = 0.2  # for its report
_TRUSTED = timedelta(days=1)  # that a destination still has what it took
_NAMED = 5  # reasons in a message

Steps = Callable[[int, int], None]


class NotTaken(WorkerError):
    """The other node has not confirmed every instance; nothing was deleted."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """What was handed over and deleted; `sent` is 0 where an earlier attempt had sent it."""

    destination: str
    sent: int
    deleted: DeletedStudy


@dataclass(frozen=True, slots=True)
class HandOver:
    """Hands studies over for an operator; `address` is where a request of theirs came from."""

    settings: Settings
    database: Database
    clock: Callable[[], datetime]
    record: events.RecordEvent
    operator: str
    address: str | None = None

    def run(
        self, study_instance_uid: str, to: str, *, with_reports: bool = False, steps: Steps = lambda _done, _all: None
    ) -> HandedOver | None:
        """Send, have confirmed, delete; None where there is no such study. `steps` gets (sent, in all).

        `with_reports` sends what was made of it, too. Raises StartError for an unknown `to`; NotTaken, StudyInUse,
        FaultyFile or Retry, after which nothing is deleted.
        """
        entity = self._require_node(to)
        with self.database.write() as session:
            held = _lock(session, study_instance_uid)
            if held is None:
                return None
            every = match_instances(session, Keys(study_instance_uids=(study_instance_uid,)))
            chosen = [instance for instance in every if with_reports or instance.kind is None]
            content = _content_of(chosen, held)
            taken_at = hand_overs.begin(session, study_instance_uid, to, content, self.clock())
        is_taken = taken_at is not None and not self._is_outdated(taken_at, chosen)
        self._audit(f"hand over a study to {to}", study_instance_uid)
        if not is_taken:
            try:
                self._send(study_instance_uid, to, entity, chosen, steps)
            except WorkerError as fault:
                self._audit(f"study not handed over to {to}, nothing deleted: {fault.reason}", study_instance_uid)
                raise
            with self.database.write() as session:
                hand_overs.mark_taken(session, study_instance_uid, to, content, self.clock())
        deleted = delete_study(
            self.database, self.settings, study_instance_uid, self.operator, self.address, self.record, expected=held
        )
        return None if deleted is None else HandedOver(to, 0 if is_taken else len(chosen), deleted)

    def check(self, study_instance_uid: str, to: str) -> bool:
        """Check whether a hand-over can begin, without sending anything; False where there is no such study.

        Raises StartError, NotTaken and StudyInUse, as `run` does.
        """
        self._require_node(to)
        with self.database.write() as session:
            return _lock(session, study_instance_uid) is not None

    def _require_node(self, to: str) -> ApplicationEntity:
        entity = self.settings.nodes.get(to)
        if entity is None:
            known = ", ".join(self.settings.nodes) or "none"
            detail = f"'{to}' is neither a [[peer]] nor a [[destination]] by C-STORE (known: {known})"
            raise StartError("no-such-destination", detail)
        if _is_us(entity, self.settings):
            raise StartError("no-such-destination", f"'{to}' is this worker: a study is handed over to another node")
        return entity

    def _is_outdated(self, taken_at: datetime, chosen: Sequence[Instance]) -> bool:
        """Whether to send again what was taken so long ago that it may have been deleted there; it can be, if whole."""
        paths = [instance.path for instance in chosen]
        is_whole = all(path is not None and (self.settings.worker.data_dir / path).exists() for path in paths)
        return is_whole and self.clock() - taken_at > _TRUSTED

    def _send(
        self, study_instance_uid: str, to: str, entity: ApplicationEntity, chosen: Sequence[Instance], steps: Steps
    ) -> None:
        files = [instance.file for instance in chosen if instance.file is not None]
        if len(files) < len(chosen):
            detail = f"retention has deleted {len(chosen) - len(files)} of its files, which cannot be sent"
            raise NotTaken("files-deleted", detail)
        settings = self.settings
        Integrity(self.database, settings.worker.data_dir, self.clock, self.record).require(files)
        destination = next((section for section in destinations_of(settings) if section.name == to), None)
        commits = destination is not None and destination.commitment_timeout is not None
        members = [
            (settings.worker.data_dir / file.path, instance) for file, instance in zip(files, chosen, strict=True)
        ]
        done = 0

        def tick() -> None:
            nonlocal done
            done += 1
            steps(done, len(members))

        # A warning says that it was changed. What a duplicate is of may be another image, unless it is committed to.
        accepted = {standard.SUCCESS, *([standard.DUPLICATE_SOP_INSTANCE] if commits else [])}
        stored, failures = push_files(
            to, entity, settings.worker.ae_title, members, tick, lambda status: status in accepted
        )
        refused = {path for path, _ in failures}
        taken = [instance for path, instance in members if path not in refused]
        if taken:
            classes = Counter(instance.sop_class_uid for instance in taken)
            transferred = events.Transferred(study_instance_uid, taken[0].patient_id, classes)
            self.record(events.sent(settings.worker.ae_title, entity.ae_title, entity.host, transferred))
        if failures:
            reasons = Counter(reason for _, reason in failures).most_common(_NAMED)
            named = "; ".join(f"{reason} ({counted(number, 'time')})" for reason, number in reasons)
            raise NotTaken(
                "not-taken", f"{to} took {stored} of {counted(len(members), 'instance')}; nothing was deleted: {named}"
            )
        if destination is not None and commits:
            self._have_committed(study_instance_uid, destination, chosen)

    def _have_committed(self, study_instance_uid: str, destination: Destination, chosen: Sequence[Instance]) -> None:
        """Request storage commitment and wait for the report, which may come to the receive role."""
        for start in range(0, len(chosen), _REFERENCES):
            batch = chosen[start : start + _REFERENCES]
            transaction_uid = standard.derive_uid("commitment", destination.name, uuid.uuid4().hex)
            with self.database.write() as session:  # before the request: the report may come before the answer
                hand_overs.expect_report(session, study_instance_uid, transaction_uid)
            destination.request_commitment(
                self.settings.worker.ae_title,
                transaction_uid,
                [(instance.sop_class_uid, instance.sop_instance_uid) for instance in batch],
                lambda information: record_commitment_report(self.database, information, self.clock()),
            )
            committed = self._report_of(transaction_uid, destination)
            missing = sum(instance.sop_instance_uid not in committed for instance in batch)
            if missing:
                number = f"{missing} of {counted(len(batch), 'instance')}"
                detail = f"{destination.name} does not commit to {number}; nothing was deleted"
                raise NotTaken("not-committed", detail)
        self._audit(f"storage commitment by {destination.name} to a study that is handed over", study_instance_uid)

    def _report_of(self, transaction_uid: str, destination: Destination) -> frozenset[str]:
        timeout = destination.commitment_timeout
        seconds = timeout.total_seconds() if timeout is not None else 0.0
        deadline = time.monotonic() + seconds
        while True:
            with self.database.read() as session:
                committed = hand_overs.committed_to(session, transaction_uid)
            if committed is not None:
                return committed
            if time.monotonic() > deadline:
                detail = (
                    f"{destination.name} sent no storage commitment report within {seconds:g} s; nothing was deleted. "
                    "Is the worker running, to receive it?"
                )
                raise NotTaken("no-commitment-report", detail)
            time.sleep(_LOOK_SECONDS)

    def _audit(self, what: str, study_instance_uid: str) -> None:
        self.record(events.operated(self.operator, self.address, what, [study_instance_uid]))


def _lock(session: Session, study_instance_uid: str) -> frozenset[tuple[str, str]] | None:
    """Lock a study that may be handed over; (UID, SHA-256) of its images, None where there is no such study."""
    if lock_study_to_delete(session, study_instance_uid) is None:
        return None
    if hand_overs.has_conflicts(session, study_instance_uid):
        detail = "other content of an image waits for a decision, and would be lost: see worker conflicts list"
        raise StudyInUse("study-in-conflict", detail)
    held = held_instances(session, study_instance_uid)
    if not held:  # corrections may have moved all of them to another study
        raise NotTaken("no-images", "the study has no images that could be sent; nothing was deleted")
    return held


def _is_us(entity: ApplicationEntity, settings: Settings) -> bool:
    """Whether we would send to ourselves, and then delete what we hold."""
    if entity.ae_title == settings.worker.ae_title:
        return True
    here = resolve(socket.gethostname())
    addresses = resolve(entity.host)
    is_local = any(address.is_loopback or address in here for address in addresses)
    return is_local and entity.port == settings.receive.port


def _content_of(chosen: Sequence[Instance], held: frozenset[tuple[str, str]]) -> str:
    """The SHA-256 of what is handed over: the UIDs and hashes of images, and the UIDs of reports."""
    lines = [f"{uid} {sha256}" for uid, sha256 in held]
    lines += [instance.sop_instance_uid for instance in chosen if instance.kind is not None]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
