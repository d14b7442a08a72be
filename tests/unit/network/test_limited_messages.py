"""How much of a message is held."""

from __future__ import annotations

import pytest
from pynetdicom.pdu_primitives import P_DATA

from worker.network.limited_messages import LimitedMessages, TooLarge
from worker.network.pynetdicom_patches import INVALID_PDU


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
