"""Spellings that are the same to a search: of names for matching (PS3.4 C.2.2.2), and of words for people."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

NULL_COMPONENTS = " ^"
LONGEST_KEY = 512  # characters of a folded name that a database stores
LONGEST_WORD, MOST_WORDS = 64, 128
SHORTEST_PART = 3  # characters of a part of an identifier that is found

# A dotless i is the small letter of the Turkish I, and a dotted I has a small i: to a search all four are i.
_TURKISH = re.compile("i\u0307+|\u0131\u0307*")
_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ħ": "h"})
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
_ENDS_OF_WORDS = re.compile(r"[\s,;^=]+")
_ENDS_OF_PARTS = re.compile(r"[\W_]+")
_FIRST_IDEOGRAPH = "\u2e80"


def fold(text: str) -> str:
    """Text without its case and without differences of encoding (NFKC); accents stay."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return unicodedata.normalize("NFKC", _TURKISH.sub("i", folded))


def name_key(name: str) -> str:
    """A name as names are compared: folded, without padding and null components (PS3.5 6.2, 6.2.1.1)."""
    return trim_groups(fold(name)).rstrip("=")


def stored_name_key(name: str) -> str:
    """The key of a name as a database stores it: empty where it is too long, and of a name of null components."""
    key = name_key(name)
    return key if len(key) <= LONGEST_KEY else ""


def trim_groups(name: str) -> str:
    """A name without the padding of its components, and without null components at the end of its groups."""
    groups = ["^".join(part.strip() for part in group.split("^")) for group in name.split("=")]
    return "=".join(group.rstrip(NULL_COMPONENTS) for group in groups)


# --- words, in any order and without accents -------------------------------------------------------------------


def search_words(patient_id: str, patient_name: str, accession_number: str) -> set[str]:
    """The words of which any beginning finds a series: those of the name, and each end of the identifiers."""
    words: list[str] = []
    for group in patient_name.split("="):
        for spelled in _spellings(group):
            words += _parts(spelled)
            if spelled >= _FIRST_IDEOGRAPH:  # written without a space between family and given name
                words.append(_joined(spelled))
    for identifier in (patient_id, accession_number):
        whole = _joined(_plain(identifier))
        words += [whole, *(whole[start:] for start in range(1, len(whole) - SHORTEST_PART + 1))]
    return {word[:LONGEST_WORD] for word in list(dict.fromkeys(filter(None, words)))[:MOST_WORDS]}


def joined_words(words: Iterable[str]) -> str:
    """Words as a text in which a space and the beginning of a word find it."""
    return "".join(f" {word}" for word in words)


def query_words(text: str) -> list[frozenset[str]]:
    """What a search for a text looks for: of each word its spellings, of which any suffices. Longest words first."""
    words = [frozenset(filter(None, map(_joined, _spellings(word)))) for word in _ENDS_OF_WORDS.split(text)]
    cut = {frozenset(spelled[:LONGEST_WORD] for spelled in word) for word in words if word}
    return sorted(cut, key=lambda word: (-len(max(word)), sorted(word)))


def _spellings(text: str) -> Iterator[str]:
    """Without accents; and with those of German and the Nordic languages written as an e, as passports have it."""
    yield _plain(text)
    folded = fold(text)
    if not folded.isascii() and (written := folded.translate(_UMLAUTS)) != folded:
        yield _plain(written)


def _plain(text: str) -> str:
    folded = fold(text)
    if folded.isascii():
        return folded
    letters = unicodedata.normalize("NFKD", folded.translate(_LETTERS))
    return unicodedata.normalize("NFC", "".join(letter for letter in letters if not _is_accent(letter)))


def _is_accent(letter: str) -> bool:
    """Marks above and below, and the vowel points of Hebrew and Arabic; not the marks that make another kana."""
    mark = unicodedata.combining(letter)
    return mark >= 200 or 10 <= mark <= 36


def _parts(text: str) -> Iterator[str]:
    """The words; of a word with a hyphen or an apostrophe both the whole and its parts."""
    for word in _ENDS_OF_WORDS.split(text):
        yield _joined(word)
        yield from _ENDS_OF_PARTS.split(word)


def _joined(text: str) -> str:
    return _ENDS_OF_PARTS.sub("", text)
