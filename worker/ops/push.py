"""`worker push`: files to a peer by C-STORE, in the transfer syntaxes they are in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pynetdicom import AE
from pynetdicom.association import Association

from worker.config.settings import DestinationSection
from worker.db.instances import NewInstance
from worker.dicom import standard
from worker.errors import Retry
from worker.send.c_store import refused_context, tls_arguments

_CONTEXTS_AT_MOST = 128  # PS3.8 9.3.2.2: a presentation context ID is an odd number below 256


def push_files(
    destination: DestinationSection,
    ae_title: str,
    members: Sequence[tuple[Path, NewInstance]],
    tick: Callable[[], None],
) -> tuple[int, list[tuple[Path, str]]]:
    """How many were stored, and the others with the reason; `tick` after each. Raises Retry when the peer is away."""
    sent, failures = 0, []
    for batch in _batches(members):
        assoc = _associate(destination, ae_title, batch)
        try:
            for path, new in batch:
                why = _store(assoc, path, new)
                if why is None:
                    sent += 1
                else:
                    failures.append((path, why))
                tick()
        finally:
            if assoc.is_established:
                assoc.release()
    return sent, failures


def _batches(members: Sequence[tuple[Path, NewInstance]]) -> Iterator[list[tuple[Path, NewInstance]]]:
    """Runs of files that one association has presentation contexts for."""
    batch: list[tuple[Path, NewInstance]] = []
    contexts: set[tuple[str, str]] = set()
    for path, new in members:
        context = (new.sop_class_uid, new.transfer_syntax_uid)
        if context not in contexts and len(contexts) == _CONTEXTS_AT_MOST:
            yield batch
            batch, contexts = [], set()
        contexts.add(context)
        batch.append((path, new))
    if batch:
        yield batch


def _associate(
    destination: DestinationSection, ae_title: str, batch: Sequence[tuple[Path, NewInstance]]
) -> Association:
    ae = AE(ae_title=ae_title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = destination.timeout_seconds
    for sop_class_uid, syntax in sorted({(new.sop_class_uid, new.transfer_syntax_uid) for _, new in batch}):
        ae.add_requested_context(sop_class_uid, syntax)
    assoc = ae.associate(
        destination.host, destination.port, ae_title=destination.ae_title, tls_args=tls_arguments(destination)
    )
    if not assoc.is_established:
        raise Retry("peer-unavailable", f"no association with {destination.host}:{destination.port}")
    return assoc


def _store(assoc: Association, path: Path, new: NewInstance) -> str | None:
    """None when the peer stored it, else why not."""
    if not assoc.is_established:
        return "the association has ended"
    accepted = {(one.abstract_syntax, one.transfer_syntax[0]) for one in assoc.accepted_contexts}
    if (new.sop_class_uid, new.transfer_syntax_uid) not in accepted:
        return refused_context(assoc, new.sop_class_uid, [new.transfer_syntax_uid]).detail
    answer = assoc.send_c_store(path)
    if "Status" not in answer:
        return "no answer"
    status = int(answer.Status)
    return None if status == standard.SUCCESS or status >> 12 == 0xB else f"status 0x{status:04X}"
