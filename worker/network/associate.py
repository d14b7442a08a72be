"""Request an association with another application entity: the only place where we call."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from worker.config.sections import ApplicationEntity
from worker.errors import Retry
from worker.network import unreachable
from worker.network.pynetdicom_patches import Requestor, pause_reactor_without_race, send_at_once
from worker.tls import association_arguments

_LONGEST_CONNECT_SECONDS = 10.0
# Source and diagnostic of an A-ASSOCIATE-RJ (PS3.8 Table 9-21).
_CALLING_UNKNOWN, _CALLED_UNKNOWN = (1, 3), (1, 7)
_BY_PRESENTATION = 3  # congestion, or a limit
_CLOSED = "it closed the connection; does it accept our certificate?"
_CLOSED_PLAIN = "it closed the connection; is the port a DICOM port, without TLS?"


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
    ae = Requestor(ae_title=ae_title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = seconds
    ae.connection_timeout = min(_LONGEST_CONNECT_SECONDS, seconds)
    tls = association_arguments(entity.tls_certificate, entity.tls_key, entity.tls_authority, entity.host)
    started = time.monotonic()
    try:
        assoc = ae.associate(
            entity.host,
            entity.port,
            list(contexts),
            ae_title=entity.ae_title,
            ext_neg=list(roles),
            tls_args=tls,
            evt_handlers=list(handlers),
        )
    except (OSError, UnicodeError) as fault:  # the host name, or this host has no socket for the address
        raise _unconnected(fault, entity, name) from None
    if assoc.is_established:
        pause_reactor_without_race(assoc)
        send_at_once(assoc)
        return assoc
    if ae.fault is not None:
        raise _unconnected(ae.fault, entity, name)
    if assoc.is_rejected:
        raise Retry("association-rejected", f"{name} rejected the association: {_rejection(assoc, entity, ae_title)}")
    if assoc.rejected_contexts:  # with no context accepted there is nothing to do over it, and pynetdicom aborts
        raise Retry("sop-class-refused", f"{name} does not support {service}")
    address = f"{entity.host}:{entity.port}"
    if time.monotonic() - started >= seconds:
        why = f"it took the connection, but sent no answer in {seconds:g} s; is the port a DICOM port?"
    else:
        why = _CLOSED if tls else _CLOSED_PLAIN
    raise Retry("peer-unavailable", f"{name} does not answer at {address}: {why}")


def _unconnected(fault: OSError | UnicodeError, entity: ApplicationEntity, name: str) -> Retry:
    reason, sentence = unreachable.explain(fault, entity.host, f"{entity.host}:{entity.port}")
    return Retry(reason, f"{name} {sentence}")


def _rejection(assoc: Association, entity: ApplicationEntity, ae_title: str) -> str:
    """The reason of an A-ASSOCIATE-RJ (PS3.8 Table 9-21), and what to do about it."""
    answer = assoc.acceptor.primitive
    reason = (answer.result_source, answer.diagnostic)
    if reason == _CALLED_UNKNOWN:
        return f"it is not called '{entity.ae_title}'; set ae_title to what it is called"
    if reason == _CALLING_UNKNOWN:
        return f"it does not know us as '{ae_title}'; register that AE title there"
    if reason[0] == _BY_PRESENTATION:
        return f"it takes no other association now ({answer.reason_str.lower()})"
    return f"{answer.reason_str.lower()}; does it know the AE titles '{entity.ae_title}' and '{ae_title}'?"
