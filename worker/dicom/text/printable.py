"""What of a received text is stored and shown: all but control characters."""

from __future__ import annotations

import unicodedata

# Control characters, surrogates, and separators of lines and paragraphs. What only an unprintable space or a private
# character (PS3.5 6.1: GB 18030 has some for names) shows of a name is part of it.
_CONTROLS = frozenset({"Cc", "Cs", "Zl", "Zp"})
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # they would turn the page around it


def printable(text: str) -> str:
    """A text without control characters, and without what surrounds it."""
    return (text if text.isprintable() else "".join(filter(is_storable, text))).strip()


def is_storable(text: str) -> bool:
    """False for a text with a character that `printable` removes."""
    return text.isprintable() or not any(
        unicodedata.category(character) in _CONTROLS or character in _DIRECTIONS for character in text
    )
