"""What of a received text is stored and shown: all but control characters."""

from __future__ import annotations

import hashlib
import unicodedata

LONGEST_TEXT = 512  # characters of a received text in a row; PostgreSQL's index takes 2,700 bytes

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


def stored_text(text: str) -> str:
    """A text as a row holds it: whole, also where it is longer than its VR allows.

    The end of a text longer than LONGEST_TEXT is an ellipsis and the text's hash: it is no other patient's number.
    """
    text = printable(text)
    if len(text) <= LONGEST_TEXT:
        return text
    end = "\u2026" + hashlib.sha256(text.encode()).hexdigest()
    return text[: LONGEST_TEXT - len(end)] + end
