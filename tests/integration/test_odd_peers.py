"""What no toolkit sends is answered at once: taken, refused by its status, or aborted; never left without an answer."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage
from pynetdicom.dul import DULServiceProvider
from pynetdicom.sop_class import Verification

from tests.faults.wire import (
    ABORTED,
    ACCEPTED,
    DATA,
    REJECTED,
    Closed,
    Wire,
    associate_request,
    data_pdus,
    echo_command,
    implicit,
    pdu,
    status_of,
    store_command,
)
from tests.testbed.receiver import receiving
from tests.testbed.waiting import wait_until
from worker.audit import events
from worker.db.engine import Database
from worker.dicom import commitment, standard
from worker.receive import fast_store
from worker.storage.refusals import refused_associations

pytestmark = [
    pytest.mark.filterwarnings("ignore:Invalid value for VR UI"),
    pytest.mark.filterwarnings("ignore:The value length"),
]

SECONDS = 8.0
ECHO = [(str(Verification), str(ImplicitVRLittleEndian))]
STORE = [(str(MRImageStorage), str(ExplicitVRLittleEndian)), *ECHO]
VERSION_AT, CALLED_AT, CALLING_AT, ITEMS_AT = 6, 10, 26, 74


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with receiving(tmp_path_factory.mktemp("odd")) as (port, _):
        yield port


@pytest.fixture
def peer(port: int) -> Iterator[Wire]:
    with Wire(port, SECONDS) as peer:
        yield peer


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


def changed(content: bytes, start: int, value: bytes) -> bytes:
    return content[:start] + value + content[start + len(value) :]


def with_item(request: bytes, extra: bytes) -> bytes:
    return pdu(1, request[6:ITEMS_AT] + extra + request[ITEMS_AT:])


REQUEST = associate_request(ECHO)
USER_AT = REQUEST.index(b"\x50\0")
USER = REQUEST[USER_AT + 4 :]


def with_user_item(kind: int, value: bytes) -> bytes:
    return pdu(1, REQUEST[6:USER_AT] + item(0x50, USER + item(kind, value)))


@pytest.mark.parametrize(
    "request_pdu",
    [
        pytest.param(with_item(REQUEST, item(0x70, b"??")), id="item-70H"),
        pytest.param(with_item(REQUEST, item(0xFF, b"??")), id="item-FFH"),
        pytest.param(with_user_item(0x5A, b"??"), id="user-item-5AH"),
        pytest.param(with_user_item(0xFF, b""), id="user-item-FFH"),
        pytest.param(with_user_item(0x55, b"A" * 24), id="version-name-of-24"),
        pytest.param(changed(REQUEST, VERSION_AT, b"\0\3"), id="protocol-version-3"),
        pytest.param(changed(REQUEST, CALLING_AT, b"PACS".ljust(16, b"\0")), id="calling-with-nul"),
        pytest.param(changed(REQUEST, CALLED_AT, b"AI_WORKER".ljust(16, b"\0")), id="called-with-nul"),
        pytest.param(changed(REQUEST, CALLING_AT, bytes(16)), id="calling-empty"),
        pytest.param(changed(REQUEST, CALLED_AT, b" " * 16), id="called-blank"),
        pytest.param(
            with_item(REQUEST, item(0x20, b"\3\0\0\0" + item(0x30, str(Verification).encode()))),
            id="no-transfer-syntax",
        ),
    ],
)
def test_an_association_request_is_taken_as_dcmtk_takes_it(peer: Wire, request_pdu: bytes) -> None:
    peer.send(request_pdu)
    assert peer.receive()[0] == ACCEPTED
    for part in data_pdus(1, echo_command(), command=True):
        peer.send(part)
    assert status_of(peer.receive()[1]) == standard.SUCCESS


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(pdu(0x08, b"what"), id="unknown-pdu"),
        pytest.param(struct.pack(">BBI", 0xFF, 0, 100), id="unknown-pdu-that-never-comes"),
        pytest.param(pdu(0x04, bytes(6)), id="data-first"),
        pytest.param(pdu(0x05, bytes(4)), id="release-first"),
        pytest.param(pdu(0x01, b"short"), id="short-request"),
        pytest.param(
            with_item(REQUEST, item(0x20, b"\3\0\0\0" + item(0x40, b"1.2.840.10008.1.2"))), id="no-abstract-syntax"
        ),
        pytest.param(with_item(REQUEST, item(0x20, b"\2\0\0\0" + item(0x30, b"x" * 99))), id="uid-that-is-none"),
        pytest.param(with_user_item(0x51, b"\1"), id="maximum-length-of-one-byte"),
        pytest.param(with_user_item(0x54, b"\xff\xff"), id="role-that-is-none"),
        pytest.param(with_user_item(0x58, b""), id="empty-identity"),
    ],
)
def test_what_is_no_association_request_is_ended_at_once(peer: Wire, first: bytes) -> None:
    peer.send(first)
    _ends(peer)


def _ends(peer: Wire) -> None:
    """An A-ABORT, an A-ASSOCIATE-RJ, or the end of the connection: not silence."""
    with suppress(Closed):
        assert peer.receive()[0] in (ABORTED, REJECTED)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(pdu(0x08, b"what"), id="unknown-pdu"),
        pytest.param(struct.pack(">BBI", 0x42, 0, 1000), id="unknown-pdu-that-never-comes"),
        pytest.param(pdu(DATA, b""), id="data-of-length-0"),
        pytest.param(pdu(DATA, struct.pack(">IBB", 0, 1, 3)), id="value-of-length-0"),
        pytest.param(pdu(DATA, struct.pack(">IBB", 1, 1, 3)), id="value-without-control-header"),
        pytest.param(pdu(DATA, b"\0\0\0"), id="half-a-length"),
        pytest.param(b"".join(data_pdus(5, echo_command(), command=True)), id="context-that-was-not-negotiated"),
        pytest.param(b"".join(data_pdus(2, echo_command(), command=True)), id="even-context"),
        pytest.param(b"".join(data_pdus(1, b"dataset", command=False)), id="dataset-without-command"),
        pytest.param(b"".join(data_pdus(1, b"\xff" * 40, command=True)), id="command-that-is-none"),
        pytest.param(b"".join(data_pdus(1, b"", command=True)), id="empty-command"),
        pytest.param(REQUEST, id="second-request"),
        pytest.param(pdu(0x02, bytes(80)), id="an-answer"),
    ],
)
def test_what_is_no_message_is_aborted_at_once(peer: Wire, content: bytes) -> None:
    peer.associate(STORE)
    peer.send(content)
    assert peer.receive()[0] == ABORTED


EMPTY_VALUES = pdu(DATA, struct.pack(">IBB", 2, 1, 0) * 150_000)
ITEMS = item(0x20, b"") * 200_000
COMMAND_IN_NOTHINGS = pdu(DATA, struct.pack(">IBB", 2, 1, 1)) * 5400


@pytest.mark.parametrize(
    ("begin", "content"),
    [
        pytest.param([], EMPTY_VALUES, id="values-first"),
        pytest.param([], pdu(0x02, bytes(68) + ITEMS), id="answer-first"),
        pytest.param([], pdu(0x01, REQUEST[6:74] + ITEMS), id="request"),
        pytest.param(STORE, EMPTY_VALUES, id="values"),
        pytest.param(STORE, pdu(0x01, REQUEST[6:74] + ITEMS), id="second-request"),
        pytest.param(STORE, pdu(0x02, bytes(68) + ITEMS), id="answer"),
        pytest.param(STORE, COMMAND_IN_NOTHINGS, id="command-in-nothings"),
        pytest.param(STORE, pdu(0x08, b"what") + 8 * EMPTY_VALUES, id="values-after-the-end"),
    ],
)
def test_what_is_made_of_ever_so_many_parts_is_not_decoded(
    peer: Wire, begin: list[tuple[str, str]], content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pynetdicom makes 64 bytes of each byte of them, and a command in nothings took quadratic time."""
    decoded: list[int] = []
    looked: list[int] = []
    decode, values_of = DULServiceProvider._decode_pdu, fast_store.data_values
    monkeypatch.setattr(
        DULServiceProvider, "_decode_pdu", lambda dul, pdu: decoded.append(len(pdu)) or decode(dul, pdu)
    )
    monkeypatch.setattr(fast_store, "data_values", lambda pdu: looked.append(len(pdu)) or values_of(pdu))
    if begin:
        peer.associate(begin)
    with suppress(Closed):
        peer.send(content)
    with suppress(Closed):
        while True:
            peer.receive()
    assert max(decoded, default=0) < 10_000
    assert len(looked) <= 1100
    assert looked.count(len(EMPTY_VALUES)) <= 2


def command(**elements: object) -> bytes:
    """The command set of a C-STORE-RQ with other elements; None leaves one out."""
    ds = Dataset()
    values: dict[str, object] = {
        "AffectedSOPClassUID": str(MRImageStorage),
        "AffectedSOPInstanceUID": "1.2.3",
        "CommandField": 1,
        "MessageID": 1,
        "Priority": 2,
        "CommandDataSetType": 1,
    }
    for keyword, value in (values | elements).items():
        if value is not None:
            setattr(ds, keyword, value)
    body = implicit(ds)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


@pytest.mark.parametrize(
    ("elements", "status"),
    [
        ({"AffectedSOPInstanceUID": ""}, standard.INVALID_INSTANCE),
        ({"AffectedSOPInstanceUID": "1.2.x"}, standard.INVALID_INSTANCE),
        ({"AffectedSOPInstanceUID": "1." * 40 + "1"}, standard.INVALID_INSTANCE),
        ({"AffectedSOPInstanceUID": None}, standard.INVALID_INSTANCE),
        ({"AffectedSOPClassUID": ""}, None),
        ({"AffectedSOPClassUID": None}, None),
        ({"AffectedSOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, None),
        ({"Priority": None}, None),
        ({"CommandDataSetType": None}, None),
        ({"MessageID": None}, None),
        ({"CommandField": 0x8001}, None),
        ({"CommandField": 0x7777}, None),
    ],
)
def test_a_faulty_c_store_is_answered_at_once(peer: Wire, elements: dict[str, object], status: int | None) -> None:
    """By the status, or where PS3.7 has none for it by some failure or an A-ABORT."""
    context = peer.associate(STORE)[0]
    for part in [
        *data_pdus(context, command(**elements), command=True),
        *data_pdus(context, b"\x08\0\x18\0UI\x06\x001.2.3\0", command=False),
    ]:
        peer.send(part)
    kind, body = peer.receive()
    if status is not None:
        assert (kind, status_of(body)) == (DATA, status)
    else:
        assert kind == ABORTED or (kind == DATA and status_of(body) != standard.SUCCESS)


@pytest.mark.parametrize(
    ("field", "sop_class", "context"),
    [
        (0x0100, str(MRImageStorage), 0),  # pynetdicom calls what stores instances with it
        (0x0030, str(MRImageStorage), 0),
        (0x0020, str(MRImageStorage), 0),
        (0x0020, "1.2.840.10008.5.1.4.1.2.2.1", 0),
        (0x0130, commitment.SOP_CLASS, 1),
        (0x0001, str(Verification), 0),
    ],
)
def test_an_operation_of_another_class_or_context_is_refused(
    peer: Wire, field: int, sop_class: str, context: int
) -> None:
    ds = Dataset()
    ds.AffectedSOPClassUID, ds.CommandField, ds.MessageID, ds.CommandDataSetType = sop_class, field, 1, 1
    ds.AffectedSOPInstanceUID, ds.EventTypeID, ds.Priority = "1.2.3", 1, 2
    if field == 0x0130:
        del ds.AffectedSOPClassUID, ds.AffectedSOPInstanceUID, ds.Priority
        ds.RequestedSOPClassUID, ds.RequestedSOPInstanceUID, ds.ActionTypeID = sop_class, commitment.SOP_INSTANCE, 1
    if field == 0x0030:
        ds.CommandDataSetType = 0x0101
    number = peer.associate(STORE)[context]
    body = implicit(ds)
    for part in data_pdus(number, struct.pack("<HHII", 0, 0, 4, len(body)) + body, command=True):
        peer.send(part)
    for part in data_pdus(number, b"\x08\0\x18\0UI\x06\x001.2.3\0", command=False) if field != 0x0030 else ():
        peer.send(part)
    assert status_of(peer.receive()[1]) in (standard.UNRECOGNIZED_OPERATION, standard.SOP_CLASS_NOT_SUPPORTED)
    peer.release()


def test_after_a_refused_instance_uid_the_association_goes_on(peer: Wire) -> None:
    context = peer.associate(STORE)[0]
    assert peer.store(context, str(MRImageStorage), "not a UID", bytes(200_000)) == standard.INVALID_INSTANCE
    assert peer.store(context, str(MRImageStorage), "1.2.3", b"nothing", 2) == standard.DATASET_MISMATCH
    for part in data_pdus(3, echo_command(3), command=True):
        peer.send(part)
    assert status_of(peer.receive()[1]) == standard.SUCCESS
    peer.release()


def test_a_c_store_without_dataset_is_refused(peer: Wire) -> None:
    context = peer.associate(STORE)[0]
    for part in data_pdus(context, command(CommandDataSetType=0x0101), command=True):
        peer.send(part)
    kind, body = peer.receive()
    assert (kind, status_of(body)) == (DATA, standard.DATASET_MISMATCH)


def test_a_command_may_come_in_parts(peer: Wire) -> None:
    context = peer.associate(STORE)[0]
    for part in data_pdus(context, store_command(str(MRImageStorage), "1.2.3"), command=True, size=20):
        peer.send(part)
    for part in data_pdus(context, b"nothing", command=False):
        peer.send(part)
    assert status_of(peer.receive()[1]) == standard.DATASET_MISMATCH


def test_real_rejections_are_counted_and_in_the_trail(tmp_path: Path) -> None:
    recorded: list[events.Event] = []
    with receiving(tmp_path, recorded.append, request_seconds=60) as (port, database):
        for first in (changed(REQUEST, VERSION_AT, b"\0\2"), pdu(0x01, b"short"), pdu(0x08, b"what")):
            with Wire(port, SECONDS) as peer:
                peer.send(first)
                _ends(peer)
        with Wire(port, SECONDS):
            pass
        wait_until(lambda: len(recorded) == 3, "three refused connections", 10, every=0.05)
    assert _refusals(database) == {"protocol-version": 1, "malformed-request": 2}


def _refusals(database: Database) -> dict[str, int]:
    with database.read() as session:
        return {reason: number for reason, number in refused_associations(session).items() if number}
