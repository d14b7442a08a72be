"""What `*` and `?` stand for."""

from __future__ import annotations

import re
import time
from fnmatch import translate
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from worker.dicom.text.wildcards import has_wildcard, matches_wildcards


@given(st.text("ab*?^=", max_size=8), st.text("ab^=", max_size=8))
def test_wildcards_mean_what_the_same_file_pattern_means(pattern: str, text: str) -> None:
    assert matches_wildcards(pattern, text) is (re.fullmatch(translate(pattern), text) is not None)


def test_a_wildcard_takes_a_step_per_character_whatever_the_pattern() -> None:
    steps = []

    class Counted(str):
        def __iter__(self) -> Any:
            for character in str.__iter__(self):
                steps.append(character)
                yield character

    assert not matches_wildcards("*a" * 13 + "b", Counted("a" * 64))
    assert len(steps) <= 64
    started = time.monotonic()
    assert not matches_wildcards("*a" * 10_000 + "b", "a" * 10_000)
    assert time.monotonic() - started < 20


def test_only_star_and_question_mark_are_wildcards() -> None:
    assert [has_wildcard(text) for text in ("a*", "?", "a[b]%_", "")] == [True, True, False, False]
