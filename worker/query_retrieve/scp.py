"""Query/Retrieve SCP (PS3.4 C) over received and produced instances, on the port of the Storage SCP.

Only a `[[peer]]` with `may_retrieve = true` may use it, by its AE title and from its host; the service does not exist
for others. No pixel is decoded, and few operations run at once, so that receiving continues.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_GET, C_MOVE
from pynetdicom.presentation import PresentationContext

from worker.audit import events
from worker.config.sections import ApplicationEntity
from worker.config.settings import Settings
from worker.db.engine import Database, Session
from worker.db.views.archive import Instance, Series, match_instances, match_series, match_studies
from worker.db.views.archive_dataset import Entry, to_dataset
from worker.db.views.archive_matching import Keys
from worker.dicom import matching, standard
from worker.dicom.header import read_stored_header
from worker.logs import fault_fields, get_log
from worker.network import pynetdicom_patches as patches
from worker.network.known_peers import KnownPeers
from worker.query_retrieve import identifiers, sub_operations
from worker.query_retrieve.identifiers import Identifier, Mismatch
from worker.query_retrieve.sub_operations import SUB_OPERATIONS_AT_MOST, RetrieveRequest
from worker.storage.integrity import Integrity

OPERATIONS_AT_ONCE = 2  # searches, and as many retrievals
WAIT_FOR_A_SLOT_SECONDS = 20.0
ANSWERS_AT_MOST = 20_000
_PAGE = 200
_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_KEYWORDS = [keyword for level in identifiers.LEVELS.values() for keyword in level]

_now = partial(datetime.now, UTC)


class Busy(Exception):
    """Too many operations run already: out of resources."""


class QueryRetrieveScp:
    """Answers C-FIND, C-MOVE and C-GET."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        record: events.RecordEvent = events.unrecorded,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self._integrity = Integrity(database, settings.worker.data_dir, clock, record)
        self._ae_title = settings.worker.ae_title
        self._data_dir = settings.worker.data_dir
        self._database = database
        self._record = record
        self._allowed = KnownPeers(peer for peer in settings.peer if peer.may_retrieve)
        # Where C-MOVE may send to, by AE title; a peer's own entry takes precedence over a destination's.
        entities: list[ApplicationEntity] = [*settings.application_entities, *settings.peer]
        self._known = {entity.ae_title: entity for entity in entities}
        self._searches = threading.BoundedSemaphore(OPERATIONS_AT_ONCE)
        self._retrievals = threading.BoundedSemaphore(OPERATIONS_AT_ONCE)

    def handlers(self) -> list[tuple[Any, Callable[..., Any]]]:
        """The event handlers for the server of the port; none where no peer may retrieve."""
        if not self._allowed:
            return []
        return [(evt.EVT_REQUESTED, self._on_request), (evt.EVT_C_FIND, self._on_find)]

    # --- access -------------------------------------------------------------------------------------------------

    def _on_request(self, event: evt.Event) -> None:
        """Offer the services to a peer that proposes them and may use them."""
        assoc = event.assoc
        requestor = assoc.requestor
        proposed = {context.abstract_syntax for context in requestor.primitive.presentation_context_definition_list}
        if not proposed & set(standard.QUERY_RETRIEVE):
            return
        calling, address = str(requestor.primitive.calling_ae_title).strip(), str(requestor.address)
        if self._allowed.find(calling, address) is None:
            get_log().warning("query and retrieve refused", reason="may_retrieve", peer=address)
            self._record(events.connection_refused(calling, address, self._ae_title, "may_retrieve"))
            return
        # PS3.7 D.3.3.4: in a C-GET the requestor is the SCP of the classes for which it proposes that role.
        as_scp = {uid for uid, role in requestor.role_selection.items() if role.scp_role}
        assoc.acceptor.supported_contexts = _contexts(assoc.acceptor.supported_contexts, as_scp)
        patches.replace_message_server(assoc, partial(self._serve, assoc))

    # --- C-FIND -------------------------------------------------------------------------------------------------

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        """Statuses: PS3.4 Table C.4-1. pynetdicom ends with success when nothing more is yielded."""
        assoc = event.assoc
        try:
            with _slot_of(self._searches):
                model = str(event.request.AffectedSOPClassUID)
                request = identifiers.read_find_identifier(event.identifier, standard.QUERY_RETRIEVE[model])
                self._audit_query(assoc, model, request)
                pending = standard.PENDING if request.is_understood else standard.PENDING_WITH_WARNING
                answers = 0
                for response in self._find(request):
                    if event.is_cancelled:
                        yield standard.CANCEL, None
                        return
                    if response is not None:
                        answers += 1
                        if answers > ANSWERS_AT_MOST:
                            raise Busy
                        yield pending, response
                    elif assoc.acse.is_aborted():
                        return
        except Mismatch:
            yield standard.DATASET_MISMATCH, None
        except Busy:
            yield standard.OUT_OF_RESOURCES, None
        except Exception as error:  # a handler's boundary: record and answer
            get_log().error("query failed", **fault_fields(error))
            yield standard.CANNOT_UNDERSTAND, None
        finally:
            patches.restart_idle_timer(assoc)  # the peer was silent because it waited for us

    def _find(self, request: Identifier) -> Iterator[Dataset | None]:
        """A response for each entry that matches, None for each that was compared and does not."""
        seen: set[str] = set()
        for entry in self._pages(request):
            unique_key = _unique_key(request.level, entry)
            if unique_key in seen:  # again on a later page, after an arrival; or a patient's second study
                yield None
                continue
            seen.add(unique_key)
            known = self._known_of(request, entry)
            if matching.matches(request.header_keys, known):
                yield identifiers.response_identifier(request, known, self._ae_title)
            else:
                yield None

    def _pages(self, request: Identifier) -> Iterator[Entry]:
        """The entries that the database matches; no transaction stays open while a slow peer reads."""
        match: Callable[[Session, Keys, int, int], Any] = {
            "PATIENT": match_studies, "STUDY": match_studies, "SERIES": match_series, "IMAGE": match_instances,
        }[request.level]  # fmt: skip
        offset = 0
        while True:
            with self._database.read() as session:
                page = match(session, request.keys, _PAGE, offset)
            yield from page
            if len(page) < _PAGE:
                return
            offset += len(page)

    def _known_of(self, request: Identifier, entry: Entry) -> Dataset:
        """Every key that has a value: from the database, and from a file's header where the database lacks any."""
        known = to_dataset(entry)
        in_database = request.requested() <= set(known.dir()) and self._database.pseudonym is None
        if entry.path is None or in_database:
            return known
        header = read_stored_header(self._data_dir / entry.path, _KEYWORDS)
        if header and self._database.pseudonym is not None:  # the file has what the peer asked for
            for keyword in ("PatientID", "PatientName", "AccessionNumber"):
                known.pop(keyword, None)
        header.update(known)
        return header

    def _audit_query(self, assoc: Association, model: str, request: Identifier) -> None:
        query = {"QueryRetrieveLevel": request.level}
        for key in request.all_keys:
            keyword = keyword_for_tag(key.tag)
            query[keyword] = "\\".join(key.values) if keyword in events.KEYS_SHOWN else "***"
        calling, address = str(assoc.requestor.ae_title), str(assoc.requestor.address)
        self._record(events.searched(calling, address, self._ae_title, model, query))

    # --- C-MOVE and C-GET ---------------------------------------------------------------------------------------

    def _serve(self, assoc: Association, ordinary: Callable[[Any, int], None], message: Any, context_id: int) -> None:
        """In place of pynetdicom's own, which encodes every file anew and names itself as the originator of a move."""
        context = patches.accepted_context(assoc, context_id)
        if not isinstance(message, C_GET | C_MOVE) or context is None or not message.is_valid_request:
            ordinary(message, context_id)
            return
        if context.abstract_syntax not in standard.QUERY_RETRIEVE or not context.as_scp:
            ordinary(message, context_id)
            return
        assoc.dimse.cancel_req = {}
        request = RetrieveRequest(assoc, message, context)
        try:
            with patches.answering_itself(assoc), _slot_of(self._retrievals):
                self._retrieve(request)
        except Mismatch:
            request.end(standard.DATASET_MISMATCH)
        except Busy:
            request.end(standard.OUT_OF_RESOURCES_FOR_MATCHES)
        except Exception as error:  # a handler's boundary: record and answer
            get_log().error("retrieval failed", **fault_fields(error))
            request.end(standard.CANNOT_UNDERSTAND)
        finally:
            patches.restart_idle_timer(assoc)  # the peer was silent because it waited for us

    def _retrieve(self, request: RetrieveRequest) -> None:
        keys = identifiers.read_retrieve_identifier(request.identifier(), standard.QUERY_RETRIEVE[request.model])
        destination = None if request.is_get else self._known.get(request.destination)
        if destination is None and not request.is_get:
            request.end(standard.MOVE_DESTINATION_UNKNOWN)
            return
        with self._database.read() as session:
            instances = match_instances(session, keys, SUB_OPERATIONS_AT_MOST + 1)
        if len(instances) > SUB_OPERATIONS_AT_MOST:
            raise Busy
        try:
            sub_operations.send_all(request, instances, self._integrity, destination, self._ae_title)
        finally:
            calling, address = str(request.assoc.requestor.ae_title), str(request.assoc.requestor.address)
            receiver = (destination.ae_title, destination.host) if destination else (calling, address)
            for transferred in request.transferred():
                self._record(events.fetched(calling, address, self._ae_title, *receiver, transferred))


@contextmanager
def _slot_of(slots: threading.BoundedSemaphore) -> Iterator[None]:
    """A slot among the few operations that run at once. Raises Busy when none becomes free in time."""
    if not slots.acquire(timeout=WAIT_FOR_A_SLOT_SECONDS):
        raise Busy
    try:
        yield
    finally:
        slots.release()


def _contexts(storage: list[PresentationContext], as_scp: set[str]) -> list[PresentationContext]:
    """The contexts for a peer that may retrieve: storage in both directions where the peer proposes that."""
    contexts = []
    for context in storage:
        if context.abstract_syntax in as_scp and context.abstract_syntax in standard.RECEIVED_SOP_CLASSES:
            context.scu_role = context.scp_role = True
        contexts.append(context)
    return contexts + [build_context(uid, _SYNTAXES) for uid in standard.QUERY_RETRIEVE]


def _unique_key(level: str, entry: Entry) -> str:
    if isinstance(entry, Instance):
        return entry.sop_instance_uid
    if isinstance(entry, Series):
        return entry.series_instance_uid
    return entry.patient_id if level == "PATIENT" else entry.study_instance_uid
