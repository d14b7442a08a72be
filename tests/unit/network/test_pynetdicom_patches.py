"""pynetdicom still has every attribute that we replace or use: an upgrade that renames one fails here."""

from __future__ import annotations

import ast
import inspect
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, _config, association, dimse, events, service_class
from pynetdicom.association import MODE_ACCEPTOR, Association
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.sop_class import Verification
from pynetdicom.transport import AssociationSocket, RequestHandler

from worker.dicom.header import parse_message
from worker.network import pynetdicom_patches as patches

WORKER = Path(__file__).parents[3] / "worker"


def chains(tree: ast.AST) -> Iterator[str]:
    """Each longest chain of attributes that begins at a name `assoc`, without the name."""
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            names, root = [], node
            while isinstance(root, ast.Attribute):
                names.append(root.attr)
                root = root.value  # type: ignore[assignment]
            if isinstance(root, ast.Name) and root.id == "assoc":
                yield ".".join(reversed(names))


CHAINS = sorted(set(chains(ast.parse(inspect.getsource(patches)))))


@pytest.fixture
def assoc() -> Iterator[Association]:
    """A new association, as the server of an AE makes it; its threads are not started."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assoc = Association(AE(), MODE_ACCEPTOR)
        assoc.set_socket(AssociationSocket(assoc, client_socket=ours))
        yield assoc


def test_the_patches_name_what_they_replace() -> None:
    assert {"dul._is_transport_event", "dul._run_loop_delay", "_reactor_checkpoint.wait", "_serve_request"} < set(
        CHAINS
    )
    assert len(CHAINS) >= 18


@pytest.mark.parametrize("chain", CHAINS)
def test_pynetdicom_has_the_attribute(assoc: Association, chain: str) -> None:
    value: Any = assoc
    for name in chain.split("."):
        assert hasattr(value, name), f"pynetdicom renamed {name} of {chain}"
        value = getattr(value, name)


def test_pynetdicom_has_the_methods_that_we_override() -> None:
    assert callable(RequestHandler._create_association)
    assert callable(dimse.DIMSEServiceProvider.receive_primitive)
    assert isinstance(_config.STORE_SEND_CHUNKED_DATASET, bool)
    assert {"LOG_REQUEST_IDENTIFIERS", "LOG_RESPONSE_IDENTIFIERS"} <= set(_config.__annotations__)


def test_no_other_module_touches_a_private_attribute_of_pynetdicom() -> None:
    found = []
    for package in ("receive", "query_retrieve", "send", "storage", "network", "ops", "service"):
        for file in sorted((WORKER / package).rglob("*.py")):
            if file.name == "pynetdicom_patches.py":
                continue
            for node in ast.walk(ast.parse(file.read_text())):
                private = isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__")
                owner = node.value if isinstance(node, ast.Attribute) else None
                # What `self`, `cls` or an object of our own class has of its own is ours.
                ours = isinstance(owner, ast.Name) and owner.id in ("self", "cls", "os")
                if private and not ours:
                    found.append(f"{file.relative_to(WORKER)}:{node.lineno} {ast.unparse(node)}")
            assert "import _config" not in file.read_text()
    assert found == []


def test_the_reader_and_the_reactor_call_what_replaced_theirs(assoc: Association) -> None:
    """On threads of their own: what we assign is what pynetdicom looks up."""
    read, looked = threading.Event(), threading.Event()

    def reader() -> bool:
        read.set()
        return False

    class Work(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            looked.set()
            return super().wait(0.01)

    original = patches.replace_reader(assoc, reader)
    assert original.__name__ == "_is_transport_event"
    patches.replace_reactor_sleep(assoc, Work(), 1.0)
    assoc.dul.daemon = True
    assoc.dul.start()
    reactor = threading.Thread(target=assoc._run_reactor, daemon=True)
    reactor.start()
    try:
        assert read.wait(10)
        assert looked.wait(10)
    finally:
        assoc._kill = True
        assoc.dul.kill_dul()
        reactor.join(10)
        assoc.dul.join(10)


def test_messages_are_sent_whole_under_the_lock(assoc: Association, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = threading.Lock()
    held = []
    monkeypatch.setattr(assoc.dimse, "send_msg", lambda *arguments: held.append((lock.locked(), arguments)))
    patches.send_messages_under(assoc, lock)
    assoc.dimse.send_msg("message", 1)
    assert held == [(True, ("message", 1))]
    assert not lock.locked()


def test_a_pdu_that_pynetdicom_cannot_decode_is_signalled_as_invalid(assoc: Association) -> None:
    assert assoc.dul.event_queue.get_nowait() == "Evt5"  # the connection
    patches.signal_pdu(assoc, bytearray(b"\x04\x00\x00\x00\x00\x06\xff\xff\xff\xff\x01\x03"))
    assert assoc.dul.event_queue.get_nowait() == patches.INVALID_PDU
    patches.signal_pdu(assoc, bytearray(b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00"))  # A-ABORT
    assert assoc.dul.event_queue.get_nowait() == "Evt16"
    assert assoc.dul._recv_pdu.get_nowait().pdu_type == 7


def test_unsent_primitives_are_seen_in_their_order(assoc: Association) -> None:
    assert not patches.unsent(assoc)
    primitive = P_DATA()
    patches.send_primitive(assoc, primitive)
    assert list(patches.unsent(assoc)) == [primitive]


def test_accepted_contexts_are_known_by_their_numbers(assoc: Association) -> None:
    assert patches.accepted_context(assoc, 1) is None
    assoc._accepted_cx = {1: Verification}
    assert patches.accepted_context(assoc, 1) is Verification


def test_a_message_server_gets_the_original(assoc: Association, monkeypatch: pytest.MonkeyPatch) -> None:
    served = []
    monkeypatch.setattr(assoc, "_serve_request", lambda message, number: served.append((message, number)))
    patches.replace_message_server(assoc, lambda original, message, number: original(message.upper(), number))
    assoc._serve_request("echo", 3)
    assert served == [("ECHO", 3)]


def test_messages_of_peers_are_decoded_within_budgets() -> None:
    for module in (association, events, service_class):
        assert module.decode is parse_message
        assert "decode(" in inspect.getsource(module)
        assert "dsutils.decode" not in inspect.getsource(module)


def test_a_reactor_that_leaves_its_checkpoint_is_not_taken_for_paused(assoc: Association) -> None:
    patches.pause_reactor_without_race(assoc)
    gate = assoc._reactor_checkpoint
    assoc._is_paused = True  # as Association._run_reactor does before it waits
    assert gate.wait()
    assert not assoc._is_paused  # before a sender may look
    gate.clear()
    assoc._is_paused = True
    assert not gate.wait(0.01)
    assert assoc._is_paused


def test_a_sender_reads_each_answer_itself(assoc: Association) -> None:
    """Quick requests over one association: each gets its answer, none waits for the DIMSE time-out."""
    ae = AE()
    ae.add_supported_context(Verification)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(events.EVT_C_ECHO, lambda _event: 0)])
    client = AE()
    client.dimse_timeout = 60
    client.add_requested_context(Verification)
    peer = client.associate("127.0.0.1", server.socket.getsockname()[1])
    patches.pause_reactor_without_race(peer)
    patches.send_at_once(peer)
    try:
        answers = [peer.send_c_echo() for _ in range(200)]
        assert all("Status" in answer for answer in answers)
    finally:
        peer.release()
        server.shutdown()


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="this system has no TCP_QUICKACK")
def test_a_message_waits_for_no_timer_of_tcp_and_no_other_thread() -> None:
    ae = AE()
    ae.add_supported_context(Verification)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(events.EVT_C_ECHO, lambda _event: 0)])
    client = AE()
    client.add_requested_context(Verification)
    peer = client.associate("127.0.0.1", server.socket.getsockname()[1])
    connected, senders, send = patches.connection(peer), [], peer.dul.socket.send
    peer.dul.socket.send = lambda content: (senders.append((threading.current_thread(), content[0])), send(content))
    patches.send_at_once(peer)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
    try:
        assert peer.send_c_echo().Status == 0
        assert senders == [(threading.current_thread(), 0x04)]
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK) == 1
    finally:
        peer.release()
        server.shutdown()
    assert senders[-1] == (peer.dul, 0x05)
