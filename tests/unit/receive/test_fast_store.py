"""The bytes of C-STORE: what is read ahead, the parts of a PDU, the command set, the file and the response."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, MRImageStorage
from pynetdicom.dimse_messages import C_STORE_RSP, DIMSEMessage
from pynetdicom.pdu_primitives import P_DATA

from tests.faults.wire import store_command
from worker.dicom import standard
from worker.receive import fast_store
from worker.receive.fast_store import file_beginning
from worker.storage.acceptance import StoreRequest


def pdu(value: bytes) -> bytes:
    return b"\4\0" + len(value).to_bytes(4, "big") + value


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=20)), max_size=4))
def test_the_values_of_a_pdu_are_what_was_packed(values: list[tuple[int, int, bytes]]) -> None:
    body = b"".join(struct.pack(">IBB", 2 + len(data), context, control) + data for context, control, data in values)
    unpacked = fast_store._values(memoryview(pdu(body)))
    assert unpacked is not None
    assert [(context, control, bytes(data)) for context, control, data in unpacked] == values


@given(st.binary(max_size=40))
def test_any_bytes_are_values_or_none(body: bytes) -> None:
    values = fast_store._values(memoryview(pdu(body)))
    assert values is None or sum(6 + len(data) for _, _, data in values) == len(body)


def test_a_command_set_is_read_by_element_number() -> None:
    command = fast_store._command(memoryview(store_command(MRImageStorage, "1.2.3.4", message_id=7)))
    assert fast_store._uid(command, 0x0002) == MRImageStorage
    assert fast_store._uid(command, 0x1000) == "1.2.3.4"
    assert (fast_store._number(command, 0x0100), fast_store._number(command, 0x0110)) == (0x0001, 7)
    assert fast_store._number(command, 0x0002) is None  # no number of two bytes
    assert fast_store._number(command, 0x9999) is None


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"\x08" + content[1:]])
def test_a_malformed_command_set_is_empty(damage: Any) -> None:
    assert fast_store._command(memoryview(damage(store_command(MRImageStorage, "1.2.3.4")))) == {}


def test_pynetdicom_reads_the_response() -> None:
    request = StoreRequest(MRImageStorage, "1.2.3.4", JPEG2000Lossless, b"")
    encoded = fast_store._answer_command(request, 7, standard.OUT_OF_RESOURCES)
    primitive = P_DATA()
    primitive.presentation_data_value_list = [[1, b"\x03" + encoded]]
    message = DIMSEMessage()
    assert message.decode_msg(primitive)
    assert isinstance(message, C_STORE_RSP)
    response = message.message_to_primitive()
    assert (response.Status, response.MessageIDBeingRespondedTo) == (standard.OUT_OF_RESOURCES, 7)
    assert (response.AffectedSOPClassUID, response.AffectedSOPInstanceUID) == (MRImageStorage, "1.2.3.4")


def test_pydicom_reads_the_file_meta_information() -> None:
    beginning = file_beginning(MRImageStorage, "1.2.3", JPEG2000Lossless)
    meta = dcmread(BytesIO(beginning)).file_meta
    assert meta.FileMetaInformationVersion == b"\0\1"
    assert meta.MediaStorageSOPClassUID == MRImageStorage
    assert meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert meta.TransferSyntaxUID == JPEG2000Lossless
    assert meta.FileMetaInformationGroupLength == len(beginning) - 144
