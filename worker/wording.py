"""Numbers and dates as people read them."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the singular for 1: "1 study", "2 studies", "1,200 series"."""
    return f"{number:,} {noun if number == 1 else _plural(noun)}"


def _plural(noun: str) -> str:
    if noun.endswith("series"):
        return noun
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch")) else f"{noun}s"


def written_date(text: str) -> str:
    """A DICOM date (DA, PS3.5 6.2) as 2026-11-21; a text that is none stays as it is."""
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if len(text) == 8 and text.isdigit() else text
