"""Wildcard matching (PS3.4 C.2.2.2.4)."""

from __future__ import annotations

from functools import lru_cache


def has_wildcard(value: str) -> bool:
    """True for text with `*` or `?`."""
    return "*" in value or "?" in value


def matches_wildcards(pattern: str, text: str) -> bool:
    """True where `*` (any characters, also none) and `?` (a single character) make the whole text of the pattern.

    A step per character of the text, whatever the pattern: bit i of `states` is set where the first i characters of
    the pattern other than `*` match the text so far.
    """
    if not has_wildcard(pattern):
        return pattern == text
    length, after_star, bits, any_character = _automaton(pattern)
    states = 1
    for character in text:
        states = (states & after_star) | (states & (bits.get(character, 0) | any_character)) << 1
        if not states:
            return False
    return bool(states >> length & 1)


@lru_cache(maxsize=256)
def _automaton(pattern: str) -> tuple[int, int, dict[str, int], int]:
    """The number of characters without `*`, then sets of their positions as bits: after a `*`, by character, any."""
    length = after_star = any_character = 0
    bits: dict[str, int] = {}
    for character in pattern:
        if character == "*":
            after_star |= 1 << length
            continue
        if character == "?":
            any_character |= 1 << length
        else:
            bits[character] = bits.get(character, 0) | 1 << length
        length += 1
    return length, after_star, bits, any_character
