"""How much of a message is held, and which addresses are served. With real peers: tests/integration/test_limits.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pynetdicom.pdu_primitives import P_DATA

from worker.config.sections import ReceiveSection
from worker.network.pynetdicom_patches import INVALID_PDU
from worker.receive.limits import LimitedMessages, LimitedServer, TooLarge
from worker.receive.places import Places


class FakeAssociation:
    """The part of an association that LimitedMessages needs to collect a message."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.dul = self
        self.event_queue = self

    def put(self, event: str) -> None:
        self.events.append(event)


def fragments(*values: bytes) -> P_DATA:
    primitive = P_DATA()
    primitive.presentation_data_value_list = [[1, value] for value in values]
    return primitive


def test_no_more_of_a_dataset_is_held_than_the_limit() -> None:
    assoc = FakeAssociation()
    messages = LimitedMessages(assoc, 10 << 20)
    held = []
    for _ in range(40):
        messages.receive_primitive(fragments(b"\x00" + bytes(1 << 20)))
        held.append(messages.message.data_set.getbuffer().nbytes)
    assert max(held) == 10 << 20
    assert held[-1] == 0
    assert isinstance(messages.message.data_set, TooLarge)
    assert assoc.events == []


@pytest.mark.parametrize(
    "values",
    [
        [b"\x01" + bytes(40_000), b"\x01" + bytes(40_000)],  # a command without end
        [b""],  # not even the control header
        [b"\x03" + b"\xff" * 20],  # a command that is none
    ],
)
def test_what_is_no_message_ends_the_association(values: list[bytes]) -> None:
    assoc = FakeAssociation()
    LimitedMessages(assoc, 1 << 20).receive_primitive(fragments(*values))
    assert assoc.events == [INVALID_PDU]


@pytest.mark.parametrize("part", [b"\x00", b"\x00x", b"\x01"])
def test_a_message_in_ever_so_small_parts_ends_the_association(part: bytes) -> None:
    assoc = FakeAssociation()
    messages = LimitedMessages(assoc, 1 << 20)
    taken = 0
    while not assoc.events:
        messages.receive_primitive(fragments(part))
        taken += 1
    assert 200 < taken < 300
    assert assoc.events == [INVALID_PDU]


def test_requests_that_wait_for_no_answer_end_the_association() -> None:
    assoc = FakeAssociation()
    messages = LimitedMessages(assoc, 1 << 20)
    for number in range(4):
        messages.msg_queue.put((1, number))
    messages.receive_primitive(fragments(b"\x00data"))
    assert assoc.events == [INVALID_PDU]


@pytest.mark.parametrize(
    ("address", "is_served"),
    [
        ("10.1.2.3", True),
        ("10.2.0.1", False),
        ("::ffff:10.1.2.3", True),  # an IPv4 peer on an IPv6 socket
        ("::ffff:10.2.0.1", False),
        ("fd00::7", True),
        ("fe80::1", False),
    ],
)
def test_addresses_outside_the_networks_are_refused(address: str, is_served: bool) -> None:
    refused: list[tuple[str, str]] = []
    receive = ReceiveSection(allowed_networks=("10.1.0.0/16", "fd00::/8"))
    server: Any = SimpleNamespace(
        limits=receive,
        on_refused=lambda *refusal: refused.append(refusal),
        _by_connection={},
        _places=Places(receive, reserve=False),
    )
    assert LimitedServer.verify_request(server, object(), (address, 104)) is is_served
    assert refused == ([] if is_served else [(address, "network")])
    assert len(server._places) == is_served
