"""Associations with other application entities, and what is raised where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydicom.uid import MRImageStorage
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import Verification

from tests.testbed.dcmtk import free_port
from worker.config.sections import PeerSection
from worker.errors import Retry
from worker.network.associate import associate


@contextmanager
def listening(*sop_classes: str, **attributes: Any) -> Iterator[PeerSection]:
    """An application entity PEER that supports these SOP classes in both roles."""
    ae = AE(ae_title="PEER")
    for sop_class in sop_classes:
        ae.add_supported_context(sop_class, scu_role=True, scp_role=True)
    for name, value in attributes.items():
        setattr(ae, name, value)
    port = free_port()
    server = ae.start_server(("127.0.0.1", port), block=False)
    try:
        yield PeerSection(ae_title="PEER", host="127.0.0.1", port=port, timeout_seconds=5)
    finally:
        server.shutdown()


def test_an_association_is_established_with_our_titles_time_outs_roles_and_handlers() -> None:
    released = []
    with listening(Verification, MRImageStorage, require_called_aet=True, require_calling_aet=["OURS"]) as peer:
        assoc = associate(
            peer, "OURS", [build_context(Verification), build_context(MRImageStorage)], service="anything",
            roles=[build_role(MRImageStorage, scp_role=True)], handlers=[(evt.EVT_RELEASED, released.append)],
        )  # fmt: skip
        assert {context.abstract_syntax for context in assoc.accepted_contexts} == {Verification, MRImageStorage}
        assert [context.as_scp for context in assoc.accepted_contexts] == [False, True]
        assert (assoc.dimse_timeout, assoc.acse_timeout, assoc.network_timeout) == (5, 5, 5)
        assert assoc.send_c_echo().Status == 0
        assoc.release()
    assert len(released) == 1


def test_a_time_out_may_be_given() -> None:
    with listening(Verification) as peer:
        assoc = associate(peer, "OURS", [build_context(Verification)], service="C-ECHO", timeout_seconds=30)
        assert assoc.dimse_timeout == 30
        assoc.release()


def test_a_peer_that_rejects_us_is_named() -> None:
    with listening(Verification, require_calling_aet=["OTHER"]) as peer, pytest.raises(Retry) as fault:
        associate(peer, "OURS", [build_context(Verification)], service="C-ECHO", name="pacs")
    assert fault.value.reason == "association-rejected"
    assert fault.value.detail == "pacs rejected the association: are the AE titles known?"


def test_a_peer_without_the_service_is_told_from_one_that_is_unreachable() -> None:
    with listening(Verification) as peer, pytest.raises(Retry) as fault:
        associate(peer, "OURS", [build_context(MRImageStorage)], service="storage (C-STORE)")
    assert (fault.value.reason, fault.value.detail) == ("sop-class-refused", "PEER does not support storage (C-STORE)")


def test_an_unreachable_peer_costs_no_more_than_its_time_out() -> None:
    peer = PeerSection(ae_title="PEER", host="127.0.0.1", port=free_port(), timeout_seconds=1)
    started = time.monotonic()
    with pytest.raises(Retry) as fault:
        associate(peer, "OURS", [build_context(Verification)], service="C-ECHO")
    assert fault.value.reason == "peer-unavailable"
    assert fault.value.detail == f"PEER does not answer at 127.0.0.1:{peer.port}"
    assert time.monotonic() - started < 60
