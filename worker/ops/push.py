"""`worker push`: files to a peer by C-STORE, in the transfer syntaxes they are in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from pynetdicom import build_context

from worker.config.sections import ApplicationEntity
from worker.db.instances import NewInstance
from worker.dicom import standard
from worker.errors import Retry
from worker.network.associate import associate
from worker.send.destinations.base import Rejected
from worker.send.storage_scu import StorageAssociation

_CONTEXTS_AT_MOST = 128  # PS3.8 9.3.2.2: a presentation context ID is an odd number below 256


def push_files(
    name: str,
    peer: ApplicationEntity,
    ae_title: str,
    members: Sequence[tuple[Path, NewInstance]],
    tick: Callable[[], None],
) -> tuple[int, list[tuple[Path, str]]]:
    """The number stored, and the others with the reason; `tick` is called after each.

    `name` is the peer's in messages. Raises Retry when the peer is unreachable or rejects the association.
    """
    stored, failures = 0, []
    for batch in _batches(members):
        contexts = sorted({_context(instance) for _, instance in batch})
        proposed = [build_context(*context) for context in contexts]
        assoc = associate(peer, ae_title, proposed, service="storage of these files", name=name)
        with closing(StorageAssociation(assoc)) as association:
            for path, instance in batch:
                reason = _store(association, path, instance)
                if reason is None:
                    stored += 1
                else:
                    failures.append((path, reason))
                tick()
    return stored, failures


def _batches(members: Sequence[tuple[Path, NewInstance]]) -> Iterator[list[tuple[Path, NewInstance]]]:
    """Runs of files that one association has presentation contexts for."""
    batch: list[tuple[Path, NewInstance]] = []
    contexts: set[tuple[str, str]] = set()
    for path, instance in members:
        context = _context(instance)
        if context not in contexts and len(contexts) == _CONTEXTS_AT_MOST:
            yield batch
            batch, contexts = [], set()
        contexts.add(context)
        batch.append((path, instance))
    if batch:
        yield batch


def _context(instance: NewInstance) -> tuple[str, str]:
    return instance.sop_class_uid, instance.transfer_syntax_uid


def _store(association: StorageAssociation, path: Path, instance: NewInstance) -> str | None:
    """None when the peer stored it, else why not."""
    try:
        status = association.store_file(path, *_context(instance))
    except (Rejected, Retry) as fault:
        return fault.detail
    return None if status == standard.SUCCESS or status >> 12 == 0xB else f"status 0x{status:04X}"
