"""Matching of person names (PS3.4 C.2.2.2.1.1, C.2.2.2.4; PS3.5 6.2.1).

Names are compared by their keys (`folding.name_key`). There `?` would stand for half a letter where a letter folds to
two, as ß to ss: so a key with `?` may also match character by character, as the name is written.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from worker.dicom.text.folding import fold, name_key, trim_groups
from worker.dicom.text.wildcards import matches_wildcards

_COMPONENTS = 5  # of a group
_ANY_AT_END = re.compile(r"\^\*$")
# What surrounds a `?` may fold together with what it stands for.
_AROUND_ANY = re.compile(r"[^\x00-\x7f]?[*?]+[^\x00-\x7f]?")


def matches_name(key: str, value: str) -> bool:
    """True where the name matches as a whole, or one of its component groups does.

    A key that has groups itself is compared group by group; an empty group of it matches everything.
    """
    forms = [(_folded_key(key), name_key(value))]
    if "?" in key:
        forms.append((_as_written(key), _as_written(value).rstrip("=")))
    return any(_matches(wanted, name) for wanted, name in forms)


@lru_cache
def _folded_key(key: str) -> str:
    return trim_groups(fold(key))


def _matches(wanted: str, name: str) -> bool:
    groups = name.split("=")
    if "=" not in wanted:
        return not wanted or any(_matches_group(wanted, text) for text in (name, *groups))
    wanted_groups = _groups_of_key(wanted)
    groups += [""] * (len(wanted_groups) - len(groups))
    pairs = zip(wanted_groups, groups, strict=False)
    return all(not pattern.strip("*") or _matches_group(pattern, group) for pattern, group in pairs)


def _matches_group(wanted: str, text: str) -> bool:
    return any(matches_wildcards(pattern, text) for pattern in _spellings(wanted))


def _spellings(wanted: str) -> Iterator[str]:
    """A pattern, and without the components at its end that any matches: a name need not have them."""
    yield wanted
    for _ in range(_COMPONENTS):
        shorter = _ANY_AT_END.sub("", wanted)
        if shorter in (wanted, ""):
            return
        wanted = shorter
        yield wanted


def _groups_of_key(key: str) -> list[str]:
    """Without the last groups where these match everything: a name need not have them."""
    groups = key.split("=")
    while groups and not groups[-1].strip("*"):
        groups.pop()
    return groups


def _as_written(text: str) -> str:
    return trim_groups("".join(map(_lower, unicodedata.normalize("NFC", text))))


def _lower(character: str) -> str:
    folded = character.casefold()
    return folded if len(folded) == 1 else character


@dataclass(frozen=True, slots=True)
class NamePatterns:
    """Wildcard patterns with which a database narrows the names that a key may match; `matches_name` decides.

    They are for keys of names (`folding.name_key`). A key without `=` may match where it has a pattern of `single`, and
    matches surely if `is_exact`; a key with `=` may match where it has a pattern of `grouped`.
    """

    single: tuple[str, ...]
    is_exact: bool
    grouped: tuple[str, ...]


def name_patterns(key: str) -> NamePatterns:
    """The patterns of a key."""
    wanted = trim_groups(fold(key))
    if not wanted:
        return NamePatterns(("*",), True, ("*",))
    is_exact = "?" not in wanted
    if not is_exact:
        wanted = _AROUND_ANY.sub(lambda found: "*" if "?" in found[0] else found[0], wanted)
    if "=" in wanted:
        groups = [f"{list(_spellings(group))[-1]}*" for group in _groups_of_key(wanted)] or ["*"]
        return NamePatterns(tuple(groups) if len(groups) == 1 else (), False, ("=".join(groups),))
    spelled = tuple(_spellings(wanted))
    ends = [end for group in spelled for end in (group, f"{group}=*")]
    return NamePatterns(spelled, is_exact, (*ends, *(f"*={end}" for end in ends)))


def comparable_name(name: str) -> str:
    """A person's name without what is no difference: case, padding, delimiters of empty components (PS3.5 6.2)."""
    groups = ["^".join(part.strip() for part in group.split("^")).rstrip("^") for group in name.upper().split("=")]
    return "=".join(groups).rstrip("=")
