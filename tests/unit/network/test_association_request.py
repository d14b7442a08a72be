"""What PS3.8 tells a receiver to ignore in an A-ASSOCIATE-RQ, and what no receiver can read."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.pdu import A_ASSOCIATE_RQ

from worker.network.association_request import MalformedRequest, normalise

VERIFICATION = b"1.2.840.10008.1.1"
IMPLICIT = b"1.2.840.10008.1.2"


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


CONTEXT = item(0x20, b"\1\0\0\0" + item(0x30, VERIFICATION) + item(0x40, IMPLICIT))
USER = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3")


def request(
    items: bytes = CONTEXT,
    user: bytes = USER,
    *,
    version: int = 1,
    calling: bytes = b"SENDER          ",
    called: bytes = b"AI_WORKER       ",
) -> bytes:
    body = struct.pack(">HH", version, 0) + called + calling + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + items + item(0x50, user)
    return struct.pack(">BBI", 1, 0, len(body)) + body


def read(pdu: bytes) -> A_ASSOCIATE_RQ:
    """As pynetdicom reads it, up to what it negotiates with."""
    decoded = A_ASSOCIATE_RQ()
    decoded.decode(normalise(pdu))
    decoded.to_primitive()
    return decoded


def test_a_request_without_oddities_stays_as_it_is() -> None:
    assert normalise(request()) == request()


@pytest.mark.parametrize("kind", [0x00, 0x11, 0x70, 0xFF])
def test_unknown_items_are_ignored(kind: int) -> None:
    assert normalise(request(item(kind, b"what") + CONTEXT)) == request()


@pytest.mark.parametrize("kind", [0x50, 0x59, 0x5A, 0x70, 0xFF])
def test_unknown_user_items_are_ignored(kind: int) -> None:
    assert normalise(request(user=USER + item(kind, b"what"))) == request()


@pytest.mark.parametrize(("version", "read_as"), [(1, 1), (3, 1), (0xFFFF, 1), (2, 2), (0, 0)])
def test_the_protocol_version_is_a_bit_field(version: int, read_as: int) -> None:
    assert read(request(version=version)).protocol_version == read_as


@pytest.mark.parametrize(
    ("field", "title"),
    [
        (b"PACS" + bytes(12), "PACS"),
        (b"PACS\0garbage1234", "PACS"),
        (b"  PACS" + b" " * 10, "PACS"),
        (bytes(16), "UNKNOWN"),
        (b" " * 16, "UNKNOWN"),
        (b"A\\B\xe9\n".ljust(16), "A?B??"),
    ],
)
def test_ae_titles_are_read_as_dcmtk_reads_them(field: bytes, title: str) -> None:
    assert read(request(calling=field)).calling_ae_title.strip() == title
    assert read(request(called=field)).called_ae_title.strip() == title


@pytest.mark.parametrize(
    ("name", "read_as"), [(b"A" * 24, "A" * 16), (b"V1\0", "V1"), (b"", None), (b"\0\0", None), (b"  ", None)]
)
def test_a_version_name_is_cut_to_what_it_may_have(name: bytes, read_as: str | None) -> None:
    user = read(request(user=USER + item(0x55, name))).user_information
    assert user is not None
    assert user.implementation_version_name == read_as


def test_a_context_without_transfer_syntax_is_there_to_be_rejected_alone() -> None:
    context = item(0x20, b"\3\0\0\0" + item(0x30, VERIFICATION))
    contexts = read(request(CONTEXT + context)).presentation_context
    assert [one.transfer_syntax for one in contexts] == [["1.2.840.10008.1.2"], ["1.2.840.10008.1.20"]]


@pytest.mark.parametrize(
    "pdu",
    [
        request()[:40],
        request(item(0x20, b"\1")),
        request(item(0x20, b"\1\0\0\0" + item(0x40, IMPLICIT))),
        request(item(0x20, b"\1\0\0\0" + item(0x30, b"") + item(0x40, IMPLICIT))),
        request(user=b"\x51\0\xff\xff"),
        request()[:-2],
    ],
)
def test_what_contradicts_itself_is_malformed(pdu: bytes) -> None:
    with pytest.raises(MalformedRequest):
        normalise(pdu)


@given(st.binary(max_size=300), st.integers(0, 200))
def test_no_bytes_raise_anything_else(noise: bytes, start: int) -> None:
    content = bytearray(request())
    content[start : start + len(noise)] = noise
    try:
        pdu = normalise(bytes(content))
    except MalformedRequest:
        return
    assert struct.unpack(">I", pdu[2:6])[0] == len(pdu) - 6
    assert normalise(pdu) == pdu


@pytest.mark.parametrize(
    ("items", "user"),
    [
        pytest.param(CONTEXT * 129, USER, id="contexts"),
        pytest.param(
            item(0x20, b"\1\0\0\0" + item(0x30, VERIFICATION) + b"".join(item(0x40, b"1.%d" % n) for n in range(65))),
            USER,
            id="transfer-syntaxes",
        ),
        pytest.param(CONTEXT, USER + item(0x54, b"\0\0\1\1") * 600, id="user-items"),
        pytest.param(CONTEXT + item(0x99, bytes(60_000)) * 5, USER, id="bytes"),
    ],
)
def test_a_request_of_more_than_there_may_be_is_not_read(items: bytes, user: bytes) -> None:
    with pytest.raises(MalformedRequest):
        normalise(request(items, user))


def test_a_transfer_syntax_that_is_repeated_counts_once() -> None:
    repeated = item(0x20, b"\1\0\0\0" + item(0x30, VERIFICATION) + item(0x40, IMPLICIT) * 3000)
    assert normalise(request(repeated)) == request()


def test_the_most_that_toolkits_propose_is_read() -> None:
    syntaxes = b"".join(item(0x40, b"1.2.840.10008.1.2.4.%d" % number) for number in range(16))
    contexts = [item(0x20, bytes([2 * n + 1, 0, 0, 0]) + item(0x30, b"1" * 64) + syntaxes) for n in range(128)]
    roles = b"".join(item(0x54, b"\0\3" + b"1.%d" % (n % 10) + b"\1\1") for n in range(128))
    assert len(read(request(b"".join(contexts), USER + roles)).presentation_context) == 128
