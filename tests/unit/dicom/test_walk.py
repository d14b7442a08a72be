"""Bombs cost little, and stop at a budget; what is honest is walked to its end."""

from __future__ import annotations

import tracemalloc

import pytest

from tests.testbed.bombs import BOMBS, element, request, undefined
from worker.dicom import sources, walk
from worker.dicom.sources import Source, TooComplex
from worker.dicom.walk import Budget, elements, items
from worker.errors import RefusedInstance
from worker.storage.acceptance import StoreRequest, instance_path, read_instance

_FREE, _BYTES_AN_ELEMENT = walk.FREE_ELEMENTS // 8, walk.BYTES_AN_ELEMENT * 8


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_no_more_than_its_budgets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = request(name)
    budgets: list[Budget] = []
    monkeypatch.setattr(walk.Budget, "__init__", _noting(budgets))
    tracemalloc.start()  # it multiplies the time of the walk: hence the smaller budgets
    try:
        answer = _answer(bomb)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert answer == ("dataset-too-complex" if BOMBS[name][2] else "stored")
    assert peak < 2 * len(bomb.encoded) + sources.INFLATED_BYTES
    assert sum(budget.spent for budget in budgets) <= _FREE + len(bomb.encoded) // _BYTES_AN_ELEMENT


def _answer(sent: StoreRequest) -> str:
    try:
        row = read_instance(sent, instance_path)
    except RefusedInstance as fault:
        return fault.reason
    return "stored" if len(row.patient_id) <= 512 and len(row.patient_name) <= 512 else "not cut"


def _noting(budgets: list[Budget]):  # type: ignore[no-untyped-def]
    real = Budget.__init__

    def init(self: Budget, *arguments: int, **named: int) -> None:
        real(self, *arguments, **named)
        if self.free == walk.FREE_ELEMENTS:
            self.free, self.bytes_an_element = _FREE, _BYTES_AN_ELEMENT
        budgets.append(self)

    return init


def test_the_functional_groups_of_thousands_of_frames_are_walked() -> None:
    frame = b"".join(
        undefined(0x00180081 + n, b"SQ", _item(element(0x00180080, b"DS", b"550 " * 3) * 4)) for n in range(12)
    )
    data = undefined(0x52009230, b"SQ", _item(frame) * 5000) + element(0x7FE00000, b"LO", b"after")
    budget = Budget()
    found = [one.tag for one in elements(Source(data), False, True, budget, {0x7FE00000: 64})]
    assert found == [0x7FE00000]
    assert budget.spent > 300_000


def _item(content: bytes) -> bytes:
    return b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + content + b"\xfe\xff\x0d\xe0\0\0\0\0"


@pytest.mark.parametrize("length", [0, 5, 8, 12, 20, 35])
def test_a_sequence_without_an_end_is_malformed(length: int) -> None:
    data = undefined(0x00081140, b"SQ", _item(element(0x00180080, b"DS", b"550 ")))[: 12 + length]
    with pytest.raises(EOFError):
        list(elements(Source(data), False, True, Budget(), {}))


def test_what_is_no_item_ends_the_walk() -> None:
    data = undefined(0x00081140, b"SQ", element(0x00180080, b"DS", b"550 "))
    with pytest.raises(ValueError, match="no item"):
        list(elements(Source(data), False, True, Budget(), {}))


def test_items_of_both_kinds_of_length_are_told_apart() -> None:
    inner = element(0x00180080, b"DS", b"550 ")
    defined = b"\xfe\xff\x00\xe0" + len(inner).to_bytes(4, "little") + inner
    for content in (
        undefined(0x00081140, b"SQ", _item(inner) + defined),
        element(0x00081140, b"SQ", _item(inner) + defined),
    ):
        [sequence] = elements(Source(content), False, True, Budget(), None)
        assert [bytes(one.data[one.start : one.end]) for one in items(sequence, True, Budget())] == [inner, inner]


def test_more_items_than_the_budget_are_too_complex() -> None:
    data = undefined(0x00081140, b"SQ", b"\xfe\xff\x00\xe0\0\0\0\0" * 100)
    with pytest.raises(TooComplex):
        list(elements(Source(data), False, True, Budget(free=100, bytes_an_element=0), {}))


def test_more_items_of_a_sequence_that_is_asked_for_are_too_complex() -> None:
    """Of defined length, it is not walked before its items are taken."""
    data = element(0x00081140, b"SQ", b"\xfe\xff\x00\xe0\0\0\0\0" * 100)
    budget = Budget(free=100, bytes_an_element=0)
    [sequence] = elements(Source(data), False, True, budget, None)
    with pytest.raises(TooComplex):
        list(items(sequence, True, budget))
