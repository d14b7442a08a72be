"""The presentation data values of a P-DATA-TF (PS3.8 9.3.5), and the elements of a command in one (PS3.7 6.3.1)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

DataValue = tuple[int, int, memoryview]  # presentation context, message control header, fragment
MOST_VALUES = 256  # of a PDU: toolkits send one or two; an empty value is 6 bytes on the wire, but many more here
_P_DATA = 0x04


def data_values(pdu: memoryview) -> list[DataValue]:
    """The values of a P-DATA-TF; none for a malformed PDU, and for a PDU of more than MOST_VALUES."""
    values: list[DataValue] = []
    start = 6
    while start < len(pdu):
        length = int.from_bytes(pdu[start : start + 4], "big")
        end = start + 4 + length
        if length < 2 or end > len(pdu) or len(values) >= MOST_VALUES:
            return []
        values.append((pdu[start + 4], pdu[start + 5], pdu[start + 6 : end]))
        start = end
    return values


def data_pdu(values: Sequence[DataValue]) -> memoryview:
    """The P-DATA-TF of values."""
    content = b"".join(
        struct.pack(">IBB", 2 + len(value), context_id, control) + bytes(value) for context_id, control, value in values
    )
    return memoryview(struct.pack(">BBI", _P_DATA, 0, len(content)) + content)


def command_elements(value: memoryview) -> dict[int, bytes]:
    """The elements of a command set by number (PS3.7 6.3.1: Implicit VR Little Endian); empty if malformed."""
    elements, start = {}, 0
    while start < len(value):
        if start + 8 > len(value):
            return {}
        group, element, length = struct.unpack_from("<HHI", value, start)
        start += 8 + length
        if group or start > len(value):
            return {}
        elements[element] = bytes(value[start - length : start])
    return elements


def number_of(command: dict[int, bytes], element: int) -> int | None:
    value = command.get(element, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None


def uid_of(command: dict[int, bytes], element: int) -> str:
    return command.get(element, b"").rstrip(b"\0 ").decode("ascii", "replace")
