"""Request an association with another application entity: the only place where we call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from worker.config.sections import ApplicationEntity
from worker.errors import Retry
from worker.network.pynetdicom_patches import pause_reactor_without_race, send_at_once
from worker.tls import association_arguments

_LONGEST_CONNECT_SECONDS = 10.0


def associate(
    entity: ApplicationEntity,
    ae_title: str,
    contexts: Iterable[PresentationContext],
    *,
    service: str,
    name: str | None = None,
    timeout_seconds: float | None = None,
    roles: Sequence[Any] = (),
    handlers: Sequence[tuple[Any, ...]] = (),
) -> Association:
    """An established association in which `ae_title` is ours.

    Messages name the `service` that was requested, and the peer by `name` (default: its AE title). `roles` are SCP/SCU
    role selections (PS3.7 D.3.3.4); `timeout_seconds` replaces the entity's own time-out. Raises Retry when the peer is
    unreachable, rejects the association or accepts no presentation context; StartError for unusable TLS files.
    """
    name = name or entity.ae_title
    seconds = timeout_seconds if timeout_seconds is not None else entity.timeout_seconds
    ae = AE(ae_title=ae_title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = seconds
    ae.connection_timeout = min(_LONGEST_CONNECT_SECONDS, seconds)
    assoc = ae.associate(
        entity.host,
        entity.port,
        list(contexts),
        ae_title=entity.ae_title,
        ext_neg=list(roles),
        tls_args=association_arguments(entity.tls_certificate, entity.tls_key, entity.tls_authority, entity.host),
        evt_handlers=list(handlers),
    )
    if assoc.is_established:
        pause_reactor_without_race(assoc)
        send_at_once(assoc)
        return assoc
    if assoc.is_rejected:
        raise Retry("association-rejected", f"{name} rejected the association: are the AE titles known?")
    if assoc.rejected_contexts:  # with no context accepted there is nothing to do over it, and pynetdicom aborts
        raise Retry("sop-class-refused", f"{name} does not support {service}")
    raise Retry("peer-unavailable", f"{name} does not answer at {entity.host}:{entity.port}")
