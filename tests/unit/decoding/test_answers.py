from __future__ import annotations

from pathlib import Path

import pytest

from worker.decoding.answers import IN_MEMORY_BYTES, LARGEST_ANSWER_BYTES, Answer, Budget, Busy, Cache
from worker.errors import NotAssessable


def test_parts_are_read_as_they_were_written_also_from_disk(tmp_path: Path) -> None:
    answer = Answer(Budget(), tmp_path)
    parts = [b"a" * IN_MEMORY_BYTES, b"", b"bc"]
    for part in parts:
        answer.begin_part(len(part))
        answer.write(part)
    assert [b"".join(pieces) for pieces in answer.parts()] == parts
    assert list(tmp_path.iterdir()) == []  # a file without a name: nothing is left when the process is killed
    answer.close()


def test_claimed_length_is_checked_before_anything_is_written(tmp_path: Path) -> None:
    answer = Answer(Budget(), tmp_path)
    with pytest.raises(NotAssessable):
        answer.begin_part(LARGEST_ANSWER_BYTES + 1)
    answer.close()


def test_all_answers_together_have_a_limit_and_give_their_room_back_when_forgotten(tmp_path: Path) -> None:
    budget = Budget(100)
    first = Answer(budget, tmp_path)
    first.begin_part(60)
    second = Answer(budget, tmp_path)
    with pytest.raises(Busy):
        second.begin_part(60)
    del first
    second.begin_part(60)
    second.close()
    budget.take(100)


def test_cache_holds_the_latest_pictures_up_to_its_bytes() -> None:
    cache = Cache(100)
    for number in range(5):
        cache.add(number, bytes([number]) * 40)
    assert [cache.get(number) is not None for number in range(5)] == [False, False, False, True, True]
    assert cache.size == 80
    cache.add(4, b"new")
    assert (cache.get(4), cache.size) == (b"new", 43)
    Cache(1 << 40).add("large", bytes(IN_MEMORY_BYTES + 1))
