"""Hostile associations, each made from its number alone, as tests.faults.mutate makes datasets."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from random import Random as Dice

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.faults import mutate, wire
from worker.dicom.standard import derive_uid


@cache
def _session() -> tuple[bytes, ...]:
    """The PDUs of a valid association that stores one instance."""
    ds = mutate.valid(1)
    uids = str(ds.SOPClassUID), derive_uid("fuzz", "pdu")
    ds.SOPInstanceUID = uids[1]
    command = wire.store_command(*uids)
    content = mutate.encode(ds, ExplicitVRLittleEndian)
    return (
        wire.associate_request([(uids[0], ExplicitVRLittleEndian), ("1.2.840.10008.1.1", ImplicitVRLittleEndian)]),
        *wire.data_pdus(1, command, command=True),
        *wire.data_pdus(1, content, command=False, size=1024),
        wire.RELEASE_REQUEST,
    )


def session(number: int, seed: int = 0) -> tuple[str, list[bytes]]:
    """The PDUs of an association with a fault in at least one of them, and the kind of the fault."""
    dice = Dice(f"pdu {seed} {number}")
    kind, mutate = dice.choice(list(_SESSIONS.items()))
    return kind, mutate(dice, list(_session()))


def _pdu_flips(dice: Dice, pdus: list[bytes]) -> list[bytes]:
    # Mostly in the first two: the request and the command have the structure.
    for _ in range(dice.choice((1, 1, 2, 5))):
        index = dice.choice((0, 0, 1, 1, dice.randrange(len(pdus))))
        changed = bytearray(pdus[index])
        changed[dice.randrange(len(changed))] = dice.randrange(256)
        pdus[index] = bytes(changed)
    return pdus


def _pdu_truncated(dice: Dice, pdus: list[bytes]) -> list[bytes]:
    """Cut anywhere, then the end of the stream, or the next PDU as if nothing were missing."""
    index = dice.randrange(len(pdus))
    cut = [*pdus[:index], pdus[index][: dice.randrange(len(pdus[index]))]]
    return cut + (pdus[index + 1 :] if dice.random() < 0.5 else [])


def _pdu_length_lie(dice: Dice, pdus: list[bytes]) -> list[bytes]:
    index = dice.randrange(len(pdus))
    lie = dice.choice((0, 1, 5, len(pdus[index]) - 7, len(pdus[index]), 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF))
    pdus[index] = pdus[index][:2] + struct.pack(">I", lie) + pdus[index][6:]
    return pdus


def _item_length_lie(dice: Dice, pdus: list[bytes]) -> list[bytes]:
    """The length of an item of the request or of a presentation data value."""
    if dice.random() < 0.5:
        place = dice.choice([at for at in range(74, len(pdus[0]) - 4) if pdus[0][at] in (0x10, 0x20, 0x30, 0x40, 0x50)])
        pdus[0] = pdus[0][: place + 2] + struct.pack(">H", dice.choice((0, 1, 0x7FFF, 0xFFFF))) + pdus[0][place + 4 :]
    else:
        index = dice.randrange(1, len(pdus) - 1)
        lie = struct.pack(">I", dice.choice((0, 1, 2, 0x7FFFFFFF, 0xFFFFFFFF, len(pdus[index]))))
        pdus[index] = pdus[index][:6] + lie + pdus[index][10:]
    return pdus


def _out_of_order(dice: Dice, pdus: list[bytes]) -> list[bytes]:
    extra = dice.choice((wire.RELEASE_REQUEST, wire.pdu(0x06, bytes(4)), wire.pdu(0x07, bytes(4)), pdus[0], pdus[1],
                         wire.pdu(0x02, pdus[0][6:]), wire.pdu(0x03, bytes(4)), wire.pdu(0x99, b"x")))  # fmt: skip
    pdus.insert(dice.randrange(len(pdus) + 1), extra)
    if dice.random() < 0.5:
        dice.shuffle(pdus)
    return pdus


def _hostile_command(dice: Dice, pdus: list[bytes]) -> list[bytes]:
    """A command set of noise, with another command, without its fields, or on another context."""
    command = bytearray(pdus[1][12:])
    match dice.randrange(4):
        case 0:
            command = bytearray(dice.randbytes(dice.choice((0, 1, 8, 60))))
        case 1:
            place = command.index(b"\x00\x00\x00\x01\x02\x00\x00\x00") + 8
            command[place : place + 2] = struct.pack(
                "<H", dice.choice((0x0020, 0x0021, 0x0130, 0x8001, 0x0FFF, 0xFFFF))
            )
        case 2:
            del command[dice.randrange(12, len(command)) :]
        case 3:
            for _ in range(4):
                command[dice.randrange(len(command))] = dice.randrange(256)
    context = dice.choice((1, 1, 3, 5, 255))
    pdus[1:2] = wire.data_pdus(context, bytes(command), command=True)
    return pdus


def _many_contexts(dice: Dice, pdus: list[bytes]) -> list[bytes]:
    wanted = [("1.2.840.10008.5.1.4.1.1.4", dice.choice(mutate.SYNTAXES)) for _ in range(dice.choice((128, 300, 2000)))]
    try:
        pdus[0] = wire.associate_request(wanted)
    except struct.error:  # context numbers beyond a byte: all are given the same
        pdus[0] = wire.associate_request(wanted[:127])
    return pdus


def _hostile_titles(dice: Dice, pdus: list[bytes]) -> list[bytes]:
    title = dice.choice(
        (bytes(16), b"\xff" * 16, b" " * 16, b"\x1b[31m" + b"x" * 11, b"a\\b" + b" " * 13, b"%s%n\n" + b"y" * 11)
    )
    pdus[0] = pdus[0][:10] + title + dice.choice((title, pdus[0][26:42])) + pdus[0][42:]
    return pdus


_SESSIONS: dict[str, Callable[[Dice, list[bytes]], list[bytes]]] = {
    "byte flips": _pdu_flips,
    "truncation": _pdu_truncated,
    "length lies": _pdu_length_lie,
    "item length lies": _item_length_lie,
    "out of order": _out_of_order,
    "hostile commands": _hostile_command,
    "many contexts": _many_contexts,
    "hostile titles": _hostile_titles,
}
