"""What is collected of a message while a C-GET runs. With real peers: tests/integration/test_fetch_by_get.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE
from pynetdicom.association import MODE_REQUESTOR, Association
from pynetdicom.dimse_messages import C_GET_RSP, C_STORE_RQ
from pynetdicom.dimse_primitives import C_GET, C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.pdu_primitives import P_DATA

from worker.fetch import sub_operations
from worker.fetch.sub_operations import SubOperations, storage_contexts
from worker.network.limited_messages import LARGEST_OTHER_DATASET
from worker.storage.spool import Spool


def test_a_request_has_room_for_every_context() -> None:
    assert len(storage_contexts()) + 1 <= 128


def association(*, as_scp: bool = True) -> Association:
    """An association that was not started, with a context for MR images."""
    assoc = Association(AE(), MODE_REQUESTOR)
    context = SimpleNamespace(as_scp=as_scp, abstract_syntax=MRImageStorage, transfer_syntax=[ExplicitVRLittleEndian])
    assoc._accepted_cx = {1: context}
    return assoc


@pytest.fixture
def operations(tmp_path: Path) -> Iterator[tuple[SubOperations, Spool]]:
    spool = Spool(tmp_path, memory_bytes=1 << 20, minimum_free_bytes=0)
    operations = SubOperations(lambda: False)
    store: Any = SimpleNamespace(spool=spool, maximum_bytes=64 << 20)
    operations._transfer = SimpleNamespace(store=store)  # type: ignore[assignment]
    yield operations, spool
    operations.close()
    assert spool.held_bytes == 0
    assert list(tmp_path.iterdir()) == []


def send(assoc: Any, operations: SubOperations, command: bytes, *parts: bytes) -> Any:
    messages = sub_operations._Messages(assoc, operations.begin, lambda: False)
    for part in (b"\x03" + command, *parts):
        primitive = P_DATA()
        primitive.presentation_data_value_list = [[1, part]]
        messages.receive_primitive(primitive)
    return messages


def store_command() -> bytes:
    primitive = C_STORE()
    primitive.MessageID, primitive.AffectedSOPClassUID, primitive.Priority = 1, MRImageStorage, 0
    primitive.AffectedSOPInstanceUID, primitive.DataSet = "1.2.3", None
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    message.command_set.CommandDataSetType = 1
    return encode(message.command_set, True, True) or b""


def test_half_an_instance_in_memory_or_in_a_file_is_given_back(
    operations: tuple[SubOperations, Spool], tmp_path: Path
) -> None:
    collecting, spool = operations
    send(association(), collecting, store_command(), b"\x00" + bytes(1000))
    assert spool.held_bytes == 1000
    send(association(), collecting, store_command(), *[b"\x00" + bytes(1 << 20)] * 6)
    [file] = tmp_path.iterdir()
    assert file.stat().st_size > 6 << 20


def test_nothing_is_collected_on_a_context_over_which_we_do_not_store(operations: tuple[SubOperations, Spool]) -> None:
    collecting, spool = operations
    messages = send(association(as_scp=False), collecting, store_command(), b"\x02" + bytes(1000))
    _, request = messages.get_msg(block=False)
    assert spool.held_bytes == 0
    assert collecting.on_store(SimpleNamespace(request=request)) != 0  # type: ignore[arg-type]
    assert (collecting.stored, collecting.refused) == (0, 1)


def test_a_response_is_held_up_to_a_limit(operations: tuple[SubOperations, Spool]) -> None:
    collecting, _ = operations
    response = C_GET()
    response.MessageIDBeingRespondedTo, response.Status, response.AffectedSOPClassUID = 1, 0xB000, MRImageStorage
    message = C_GET_RSP()
    message.primitive_to_message(response)
    message.command_set.CommandDataSetType = 1
    command = encode(message.command_set, True, True) or b""
    messages = send(association(), collecting, command, *[b"\x00" + bytes(1 << 20)] * 8)
    assert messages.message.data_set.getbuffer().nbytes == LARGEST_OTHER_DATASET
