"""Files to a peer by C-STORE, in the transfer syntaxes they are in: `worker push`, and a study that is handed over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

from pynetdicom import build_context

from worker.config.sections import ApplicationEntity
from worker.dicom import standard
from worker.errors import Retry
from worker.network.associate import associate
from worker.send.destinations.base import Rejected
from worker.send.storage_scu import StorageAssociation

_CONTEXTS_AT_MOST = 128  # PS3.8 9.3.2.2: a presentation context ID is an odd number below 256
_LEAST_SECONDS = 30.0  # for an answer: an archive may write an image before it


class Encoded(Protocol):
    """What a presentation context is proposed for."""

    @property
    def sop_class_uid(self) -> str: ...

    @property
    def transfer_syntax_uid(self) -> str: ...


def push_files(
    name: str,
    peer: ApplicationEntity,
    ae_title: str,
    members: Sequence[tuple[Path, Encoded]],
    tick: Callable[[], None],
    accepts: Callable[[int], bool] = standard.is_stored,
) -> tuple[int, list[tuple[Path, str]]]:
    """The number stored, and the others with the reason; `tick` is called after each.

    `name` is the peer's in messages; `accepts` tells whether a status counts as stored. Raises Retry when the peer is
    unreachable or rejects the association.
    """
    stored, failures = 0, []
    for batch in _batches(members):
        contexts = sorted({_context(instance) for _, instance in batch})
        proposed = [build_context(*context) for context in contexts]
        seconds = max(peer.timeout_seconds, _LEAST_SECONDS)
        service = "storage of these files"
        assoc = associate(peer, ae_title, proposed, service=service, name=name, timeout_seconds=seconds)
        with closing(StorageAssociation(assoc)) as association:
            for path, instance in batch:
                reason = _store(association, path, instance, accepts)
                if reason is None:
                    stored += 1
                else:
                    failures.append((path, reason))
                tick()
    return stored, failures


def _batches(members: Sequence[tuple[Path, Encoded]]) -> Iterator[list[tuple[Path, Encoded]]]:
    """Runs of files that one association has presentation contexts for."""
    batch: list[tuple[Path, Encoded]] = []
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


def _context(instance: Encoded) -> tuple[str, str]:
    return instance.sop_class_uid, instance.transfer_syntax_uid


def _store(
    association: StorageAssociation, path: Path, instance: Encoded, accepts: Callable[[int], bool]
) -> str | None:
    """None when the peer stored it, else why not."""
    try:
        status = association.store_file(path, *_context(instance))
    except (Rejected, Retry) as fault:
        return fault.detail
    return None if accepts(status) else f"{standard.failure_meaning(status)} (status 0x{status:04X})"
