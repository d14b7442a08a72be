"""An A-ASSOCIATE-RQ (PS3.8 9.3.2) as pynetdicom can read it.

PS3.8 has unknown items ignored and only bit 0 of the protocol version tested; senders pad AE titles with NUL, leave
them empty, or write a longer implementation version name than PS3.7 D.3.3.2.3 allows. DCMTK takes all of these;
pynetdicom aborts, or stops without an answer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_LONGEST = 1 << 18  # 128 contexts of 16 transfer syntaxes, the most that toolkits propose, are half of it
_MOST_CONTEXTS = 128  # PS3.8 9.3.2.2: odd numbers from 1 to 255
# pynetdicom makes objects of each.
_MOST_TRANSFER_SYNTAXES = 64  # of a context: PS3.6 registers about as many
_MOST_USER_ITEMS = 512  # a role selection and an extended negotiation for each context are half of it
_HEADER, _FIXED = 6, 68  # the PDU's header; protocol version, AE titles and reserved bytes
_APPLICATION_CONTEXT, _PRESENTATION_CONTEXT, _USER_INFORMATION = 0x10, 0x20, 0x50
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x30, 0x40
_USER_ITEMS = range(0x51, 0x59)  # PS3.7 D.3.3; 59H is of an answer only
_VERSION_NAME = 0x55
_VERSION_NAME_LENGTH = 16
_NO_TITLE = b"UNKNOWN"
# Papyrus 3, retired: a transfer syntax that we never accept, for a context that proposes none (PS3.8 9.3.2.2 requires
# it). It is answered "transfer syntaxes not supported", not the whole request.
_NO_TRANSFER_SYNTAX = b"1.2.840.10008.1.20"


class MalformedRequest(ValueError):
    """Lengths that contradict each other, no item of a kind that has to be there, or more items than there may be."""


def normalise(pdu: bytes | memoryview) -> bytes:
    """The PDU without what a receiver ignores. Raises MalformedRequest."""
    content = bytes(pdu)
    if not _HEADER + _FIXED <= len(content) <= _LONGEST:
        raise MalformedRequest
    version, reserved = struct.unpack_from(">HH", content, _HEADER)
    titles = b"".join(_title(content[start : start + 16]) for start in (_HEADER + 4, _HEADER + 20))
    items = b"".join(_items(content[_HEADER + _FIXED :]))
    fixed = struct.pack(">HH", 1 if version & 1 else version, reserved) + titles + bytes(32)
    return struct.pack(">BBI", 1, 0, len(fixed) + len(items)) + fixed + items


def _title(field: bytes) -> bytes:
    """An AE title (PS3.5 6.2): up to its first NUL, as a C string is read; what it may not contain becomes "?"."""
    title = field.partition(b"\0")[0].strip(b" ")
    allowed = bytes(byte if 0x20 <= byte < 0x7F and byte != 0x5C else 0x3F for byte in title)
    return (allowed or _NO_TITLE).ljust(16)


def _items(content: bytes) -> Iterator[bytes]:
    contexts = 0
    for kind, value in _split(content):
        if kind == _APPLICATION_CONTEXT:
            yield _item(kind, value)
        elif kind == _PRESENTATION_CONTEXT:
            contexts += 1
            if contexts > _MOST_CONTEXTS:
                raise MalformedRequest
            yield _item(kind, _presentation_context(value))
        elif kind == _USER_INFORMATION:
            yield _item(kind, b"".join(_user_items(value)))


def _presentation_context(value: bytes) -> bytes:
    if len(value) < 4:
        raise MalformedRequest
    items = [(kind, syntax) for kind, syntax in _split(value[4:]) if kind in (_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX)]
    abstract = [syntax for kind, syntax in items if kind == _ABSTRACT_SYNTAX and syntax.strip(b" \0")]
    if len(abstract) != 1:
        raise MalformedRequest
    transfer = list(
        dict.fromkeys(syntax for kind, syntax in items if kind == _TRANSFER_SYNTAX and syntax.strip(b" \0"))
    )
    if len(transfer) > _MOST_TRANSFER_SYNTAXES:
        raise MalformedRequest
    syntaxes = [_item(_TRANSFER_SYNTAX, syntax) for syntax in transfer or [_NO_TRANSFER_SYNTAX]]
    return value[:4] + _item(_ABSTRACT_SYNTAX, abstract[0]) + b"".join(syntaxes)


def _user_items(value: bytes) -> Iterator[bytes]:
    for count, (kind, content) in enumerate(_split(value)):
        if count >= _MOST_USER_ITEMS:
            raise MalformedRequest
        if kind == _VERSION_NAME:
            name = bytes(byte for byte in content if 0x20 <= byte < 0x7F)[:_VERSION_NAME_LENGTH]
            if name.strip():
                yield _item(kind, name)
        elif kind in _USER_ITEMS:
            yield _item(kind, content)


def _split(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each item."""
    start = 0
    while start < len(content):
        if start + 4 > len(content):
            raise MalformedRequest
        kind, length = content[start], int.from_bytes(content[start + 2 : start + 4], "big")
        start += 4 + length
        if start > len(content):
            raise MalformedRequest
        yield kind, content[start - length : start]


def _item(kind: int, value: bytes) -> bytes:
    if len(value) > 0xFFFF:
        raise MalformedRequest
    return struct.pack(">BBH", kind, 0, len(value)) + value
