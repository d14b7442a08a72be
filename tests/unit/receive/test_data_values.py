"""The parts of a P-DATA-TF, and the command set."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import MRImageStorage

from tests.faults.wire import store_command
from worker.receive.data_values import (
    MOST_VALUES,
    command_elements,
    data_pdu,
    data_values,
    number_of,
    uid_of,
)


def pdu(value: bytes) -> bytes:
    return b"\4\0" + len(value).to_bytes(4, "big") + value


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=20)), max_size=4))
def test_the_values_of_a_pdu_are_what_was_packed(values: list[tuple[int, int, bytes]]) -> None:
    body = b"".join(struct.pack(">IBB", 2 + len(data), context, control) + data for context, control, data in values)
    unpacked = data_values(memoryview(pdu(body)))
    assert [(context, control, bytes(data)) for context, control, data in unpacked] == values
    assert data_pdu(unpacked) == pdu(body)


@given(st.binary(max_size=40))
def test_any_bytes_are_values_or_none(body: bytes) -> None:
    values = data_values(memoryview(pdu(body)))
    assert not values or sum(6 + len(data) for _, _, data in values) == len(body)


def test_a_pdu_of_more_values_than_any_toolkit_sends_has_none() -> None:
    empty = struct.pack(">IBB", 2, 1, 0)
    assert len(data_values(memoryview(pdu(empty * MOST_VALUES)))) == MOST_VALUES
    assert data_values(memoryview(pdu(empty * (MOST_VALUES + 1)))) == []


def test_a_command_set_is_read_by_element_number() -> None:
    command = command_elements(memoryview(store_command(MRImageStorage, "1.2.3.4", message_id=7)))
    assert uid_of(command, 0x0002) == MRImageStorage
    assert uid_of(command, 0x1000) == "1.2.3.4"
    assert (number_of(command, 0x0100), number_of(command, 0x0110)) == (0x0001, 7)
    assert number_of(command, 0x0002) is None  # no number of two bytes
    assert number_of(command, 0x9999) is None


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"\x08" + content[1:]])
def test_a_malformed_command_set_is_empty(damage: Any) -> None:
    assert command_elements(memoryview(damage(store_command(MRImageStorage, "1.2.3.4")))) == {}
