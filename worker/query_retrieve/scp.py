"""Query/Retrieve SCP (PS3.4 C) over what was received and what was produced, on the port of the Storage SCP.

Who may use it is a `[[peer]]` with `may_retrieve = true`, by its AE title and from its host; to others it is as if
there were no such service. No pixel is decoded, and few operations run at once, so that receiving goes on.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address
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
from worker.db.views.archive import Instance, Series, Study, match_instances, match_series, match_studies
from worker.db.views.archive_matching import Keys
from worker.dicom import header as headers
from worker.dicom import matching, standard
from worker.logs import fault_fields, get_log
from worker.network import pynetdicom_patches as patches
from worker.query_retrieve import identifiers, sub_operations
from worker.query_retrieve.identifiers import Identifier, Mismatch

OPERATIONS_AT_ONCE = 2  # searches, and as many retrievals
WAIT_FOR_A_PLACE_SECONDS = 20.0
ANSWERS_AT_MOST = 20_000
_PAGE = 200
_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


class Busy(Exception):
    """Too many operations run already: out of resources."""


class Archive:
    """What is answered to C-FIND, C-MOVE and C-GET."""

    def __init__(self, settings: Settings, database: Database, record: events.RecordEvent = events.unrecorded) -> None:
        self._ae_title = settings.worker.ae_title
        self._data_dir = settings.worker.data_dir
        self._database = database
        self._record = record
        self._allowed = {one.ae_title: one for one in settings.peer if one.may_retrieve}
        # Where C-MOVE may send to, by AE title; a peer's own entry counts before a destination's.
        entities: list[ApplicationEntity] = [*settings.application_entities, *settings.peer]
        self._known = {entity.ae_title: entity for entity in entities}
        self._searches = threading.BoundedSemaphore(OPERATIONS_AT_ONCE)
        self._retrievals = threading.BoundedSemaphore(OPERATIONS_AT_ONCE)

    def handlers(self) -> list[tuple[Any, Callable[..., Any]]]:
        """What the server of the port binds; none where nobody may ask."""
        if not self._allowed:
            return []
        return [(evt.EVT_REQUESTED, self._on_request), (evt.EVT_C_FIND, self._on_find)]

    # --- who ----------------------------------------------------------------------------------------------------

    def _on_request(self, event: evt.Event) -> None:
        """Offers the services to a peer that asks for them and may."""
        assoc = event.assoc
        requestor = assoc.requestor
        proposed = {one.abstract_syntax for one in requestor.primitive.presentation_context_definition_list}
        if not proposed & set(standard.QUERY_RETRIEVE):
            return
        calling, address = str(requestor.primitive.calling_ae_title).strip(), str(requestor.address)
        peer = self._allowed.get(calling)
        if peer is None or not comes_from(address, peer.host):
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
            with _one_of(self._searches):
                model = str(event.request.AffectedSOPClassUID)
                identifier = identifiers.read_find_identifier(event.identifier, standard.QUERY_RETRIEVE[model])
                self._audit_query(assoc, model, identifier)
                pending = standard.PENDING if identifier.is_understood else standard.PENDING_WITH_WARNING
                answers = 0
                for found in self._find(identifier):
                    if event.is_cancelled:
                        yield standard.CANCEL, None
                        return
                    if found is not None:
                        answers += 1
                        if answers > ANSWERS_AT_MOST:
                            raise Busy
                        yield pending, found
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

    def _find(self, identifier: Identifier) -> Iterator[Dataset | None]:
        """An answer for what matches, None for what was looked at and does not."""
        seen: set[str] = set()
        for found in self._pages(identifier):
            name = _unique(identifier.level, found)
            if name in seen:  # a page later: something came in between; or a patient's second study
                yield None
                continue
            seen.add(name)
            known = self._known_of(identifier, found)
            if matching.matches(identifier.header_keys, known):
                availability = "ONLINE" if found.path else "UNAVAILABLE"
                yield identifiers.answer(identifier, known, self._ae_title, availability)
            else:
                yield None

    def _pages(self, identifier: Identifier) -> Iterator[Study | Series | Instance]:
        """What the database matches; no transaction stays open while a slow peer reads."""
        find: Callable[[Session, Keys, int, int], Any] = {
            "PATIENT": match_studies, "STUDY": match_studies, "SERIES": match_series, "IMAGE": match_instances,
        }[identifier.level]  # fmt: skip
        offset = 0
        while True:
            with self._database.read() as session:
                page = find(session, identifier.keys, _PAGE, offset)
            yield from page
            if len(page) < _PAGE:
                return
            offset += len(page)

    def _known_of(self, identifier: Identifier, found: Study | Series | Instance) -> Dataset:
        """Every key that has a value: from the database, and from the header of a file where that does not tell all."""
        known = _from_database(found)
        wanted = {*identifier.attributes, *(keyword_for_tag(key.tag) for key in identifier.header_keys)}
        if found.path is None or (wanted <= set(known.dir()) and self._database.pseudonym is None):
            return known
        keywords = [one for level in identifiers.LEVELS.values() for one in level]
        try:
            with (self._data_dir / found.path).open("rb") as file:
                header = identifiers.readable(headers.read_header(file, keywords))
        except Exception as error:  # a file that is gone or damaged, in whatever way: the database tells what it knows
            get_log().warning("header not read", **fault_fields(error))
            return known
        if self._database.pseudonym is not None:  # the file has what the peer asked for
            for keyword in ("PatientID", "PatientName", "AccessionNumber"):
                known.pop(keyword, None)
        header.update(known)
        return header

    def _audit_query(self, assoc: Association, model: str, identifier: Identifier) -> None:
        asked = {"QueryRetrieveLevel": identifier.level}
        for key in identifier.all_keys:
            keyword = keyword_for_tag(key.tag)
            asked[keyword] = "\\".join(key.values) if keyword in events.KEYS_SHOWN else "***"
        calling, address = str(assoc.requestor.ae_title), str(assoc.requestor.address)
        self._record(events.searched(calling, address, self._ae_title, model, asked))

    # --- C-MOVE and C-GET ---------------------------------------------------------------------------------------

    def _serve(self, assoc: Association, ordinary: Callable[[Any, int], None], message: Any, context_id: int) -> None:
        """In place of pynetdicom's: it encodes every file anew, and names itself as the originator of a move."""
        context = patches.accepted_context(assoc, context_id)
        if not isinstance(message, C_GET | C_MOVE) or context is None or not message.is_valid_request:
            ordinary(message, context_id)
            return
        if context.abstract_syntax not in standard.QUERY_RETRIEVE or not context.as_scp:
            ordinary(message, context_id)
            return
        assoc.dimse.cancel_req = {}
        request = sub_operations.Request(assoc, message, context)
        try:
            with patches.answering_itself(assoc), _one_of(self._retrievals):
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

    def _retrieve(self, request: sub_operations.Request) -> None:
        keys = identifiers.read_retrieve_identifier(request.identifier(), standard.QUERY_RETRIEVE[request.model])
        to = None if request.is_get else self._known.get(request.destination)
        if to is None and not request.is_get:
            request.end(standard.MOVE_DESTINATION_UNKNOWN)
            return
        with self._database.read() as session:
            found = match_instances(session, keys, sub_operations.SUB_OPERATIONS_AT_MOST + 1)
        if len(found) > sub_operations.SUB_OPERATIONS_AT_MOST:
            raise Busy
        try:
            sub_operations.send_all(request, found, self._data_dir, to, self._ae_title)
        finally:
            calling, address = str(request.assoc.requestor.ae_title), str(request.assoc.requestor.address)
            title, place = (to.ae_title, to.host) if to else (calling, address)
            for one in request.transferred():
                self._record(events.fetched(calling, address, self._ae_title, title, place, one))


@contextmanager
def _one_of(places: threading.BoundedSemaphore) -> Iterator[None]:
    """A place among the few operations that run at once. Raises Busy when none is free in time."""
    if not places.acquire(timeout=WAIT_FOR_A_PLACE_SECONDS):
        raise Busy
    try:
        yield
    finally:
        places.release()


def comes_from(address: str, host: str) -> bool:
    """True where an address is one of those of a host."""
    try:
        found = {ip_address(info[4][0]) for info in socket.getaddrinfo(host, None)}
        here = ip_address(address)
    except (OSError, ValueError):
        return False
    return here in found or getattr(here, "ipv4_mapped", None) in found


def _contexts(storage: list[PresentationContext], as_scp: set[str]) -> list[PresentationContext]:
    """What is supported for a peer that may retrieve: storage in both directions where it proposes that."""
    contexts = []
    for one in storage:
        if one.abstract_syntax in as_scp and one.abstract_syntax in standard.STORAGE_SOP_CLASSES:
            one.scu_role = one.scp_role = True
        contexts.append(one)
    for uid in standard.PRODUCED_SOP_CLASSES:
        if uid in as_scp and uid not in standard.STORAGE_SOP_CLASSES:
            context = build_context(uid, _SYNTAXES)
            context.scu_role, context.scp_role = False, True
            contexts.append(context)
    return contexts + [build_context(uid, _SYNTAXES) for uid in standard.QUERY_RETRIEVE]


def _unique(level: str, found: Study | Series | Instance) -> str:
    match found:
        case Instance():
            return found.sop_instance_uid
        case Series():
            return found.series_instance_uid
        case Study():
            return found.patient_id if level == "PATIENT" else found.study_instance_uid


def _from_database(found: Study | Series | Instance) -> Dataset:
    known = Dataset()
    study = found.study if isinstance(found, Series) else found
    values: dict[str, Any] = {
        "PatientID": study.patient_id,
        "PatientName": study.patient_name,
        "AccessionNumber": study.accession_number,
        "StudyDate": study.study_date,
        "StudyInstanceUID": study.study_instance_uid,
    }
    if isinstance(study, Study):
        values["ModalitiesInStudy"] = list(study.modalities)
        values["NumberOfStudyRelatedSeries"] = study.series
        values["NumberOfStudyRelatedInstances"] = study.instances
    if isinstance(found, Series):
        values["NumberOfSeriesRelatedInstances"] = found.instances
    if not isinstance(found, Study):
        values |= {"SeriesInstanceUID": found.series_instance_uid, "Modality": found.modality}
    if isinstance(found, Instance):
        values |= {"SOPInstanceUID": found.sop_instance_uid, "SOPClassUID": found.sop_class_uid}
    for keyword, value in values.items():
        identifiers.add_value(known, keyword, value)
    return known
