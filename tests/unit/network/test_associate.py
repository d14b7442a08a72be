"""Associations with other application entities, and what is raised where there is none."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import MRImageStorage
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import Verification

from tests.testbed.certificates import make_certificates
from tests.testbed.dcmtk import free_port
from worker.config.sections import PeerSection
from worker.errors import Retry
from worker.network.associate import associate
from worker.tls import server_context


@contextmanager
def listening(*sop_classes: str, tls: Any = None, **attributes: Any) -> Iterator[PeerSection]:
    """An application entity PEER that supports these SOP classes in both roles."""
    ae = AE(ae_title="PEER")
    for sop_class in sop_classes:
        ae.add_supported_context(sop_class, scu_role=True, scp_role=True)
    for name, value in attributes.items():
        setattr(ae, name, value)
    port = free_port()
    server = ae.start_server(("127.0.0.1", port), block=False, ssl_context=tls)
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


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({"require_calling_aet": ["OTHER"]}, "it does not know us as 'OURS'; register that AE title there"),
        ({"require_called_aet": True, "ae_title": "X"}, "it is not called 'PEER'; set ae_title to what it is called"),
    ],
)
def test_a_peer_that_rejects_us_is_named_with_its_reason(attributes: dict[str, Any], why: str) -> None:
    with listening(Verification, **attributes) as peer, pytest.raises(Retry) as fault:
        associate(peer, "OURS", [build_context(Verification)], service="C-ECHO", name="pacs")
    assert fault.value.reason == "association-rejected"
    assert fault.value.detail == f"pacs rejected the association: {why}"


def test_a_peer_that_has_no_place_for_us_says_so() -> None:
    with listening(Verification, maximum_associations=1) as peer:
        assoc = associate(peer, "OURS", [build_context(Verification)], service="C-ECHO")
        assert "it takes no other association now (local limit exceeded)" in _fault(peer)[1]
        assoc.release()


def test_a_peer_without_the_service_is_told_from_one_that_is_unreachable() -> None:
    with listening(Verification) as peer, pytest.raises(Retry) as fault:
        associate(peer, "OURS", [build_context(MRImageStorage)], service="storage (C-STORE)")
    assert (fault.value.reason, fault.value.detail) == ("sop-class-refused", "PEER does not support storage (C-STORE)")


def _fault(peer: PeerSection) -> tuple[str, str]:
    with pytest.raises(Retry) as fault:
        associate(peer, "OURS", [build_context(Verification)], service="C-ECHO")
    return fault.value.reason, fault.value.detail


def test_an_unreachable_peer_costs_no_more_than_its_time_out() -> None:
    peer = PeerSection(ae_title="PEER", host="127.0.0.1", port=free_port(), timeout_seconds=1)
    started = time.monotonic()
    reason, detail = _fault(peer)
    assert reason == "peer-unavailable"
    assert detail.startswith(f"PEER does not answer at 127.0.0.1:{peer.port}: connection refused")
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("host", ["nowhere.invalid", "two..dots", "x" * 80])
def test_a_host_name_that_does_not_resolve_is_a_reason(host: str) -> None:
    reason, detail = _fault(PeerSection(ae_title="PEER", host=host, port=104))
    assert (reason, detail.split(";")[0].split(":")[0]) == ("host-unresolved", "PEER cannot be reached")
    assert f"the host name '{host}'" in detail


def test_a_port_of_another_protocol_is_told_from_a_closed_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        peer = PeerSection(ae_title="PEER", host="127.0.0.1", port=silent.getsockname()[1], timeout_seconds=0.3)
        assert "sent no answer in 0.3 s; is the port a DICOM port?" in _fault(peer)[1]
        closing = threading.Thread(target=lambda: [silent.accept()[0].close() for _ in range(2)])
        closing.start()
        assert "it closed the connection" in _fault(peer.model_copy(update={"timeout_seconds": 30}))[1]
        closing.join()


def test_what_is_wrong_with_tls_is_told(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    made = make_certificates(tmp_path)

    def client(port: int, name: str, authority: Path, host: str = "127.0.0.1") -> PeerSection:
        certificate, key = made.files(name)
        files = {"tls_certificate": certificate, "tls_key": key, "tls_authority": authority}
        return PeerSection(ae_title="PEER", host=host, port=port, timeout_seconds=5, **files)

    with listening(Verification) as plain:
        assert _fault(client(plain.port, "peer", made.authority)) == (
            "tls-failed", f"PEER refused TLS at 127.0.0.1:{plain.port}: the port does not speak TLS",
        )  # fmt: skip
    with listening(Verification, tls=server_context(*made.files("peer"), made.authority)) as peer:
        stranger = client(peer.port, "peer", made.files("stranger")[0])
        assert "its certificate is not accepted (self-signed certificate in" in _fault(stranger)[1]
        assert "is not valid for 'localhost'" in _fault(client(peer.port, "peer", made.authority, "localhost"))[1]
        assert "does it accept our certificate?" in _fault(client(peer.port, "stranger", made.authority))[1]
        assert "without TLS?" in _fault(peer)[1]
