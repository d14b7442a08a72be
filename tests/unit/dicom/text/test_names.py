"""Which names match which keys, and the patterns with which a database narrows them."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.dicom.text.folding import name_key
from worker.dicom.text.names import matches_name, name_patterns
from worker.dicom.text.wildcards import matches_wildcards


@pytest.mark.parametrize(
    ("key", "value", "is_match"),
    [
        ("house^*", "House^Gregory", True),
        ("house", "House^Gregory", False),
        ("doe^j*", "Doe^Jane=山田", True),
        ("山?", "Doe^Jane=山田", True),
        ("jane", "Doe^Jane=山田", False),
        ("adams^john", "Adams^John=亞當斯^約翰", True),
        ("亞當斯^約翰", "Adams^John=亞當斯^約翰", True),
        ("亞當斯*", "Adams^John=亞當斯^約翰=phonetic", True),
        ("Adams^John=亞當斯^約翰", "Adams^John=亞當斯^約翰=phonetic", True),
        ("Adams^John=亞當斯^約翰", "Adams^John", False),
        ("=亞當斯*", "Adams^John=亞當斯^約翰", True),
        ("亞當斯*=", "Adams^John=亞當斯^約翰", False),
        ("a*=*", "Adams", True),
        ("*wang*小東*", "Wang^XiaoDong=王^小東", True),  # the whole value: C.2.2.2.1.1, note
        ("DOE^JOHN", "Doe^John^^^", True),
        ("Doe^John^^", "Doe^John", True),
        ("doe^john", "Doe^John^^=山田", True),
        ("doe^j", "Doe^John", False),
        ("müller", "MÜLLER", True),
        ("м*", "Мария", True),
        ("ΟΔΟΣ", "οδος", True),
        ("k", "\u212a", True),  # the Kelvin sign
        ("STRASSE^*", "Straße^Jürgen", True),
        ("stra?e", "Straße", True),  # a character of the name as it is written
        ("stra??e", "Straße", True),
        ("stra???e", "Straße", False),
        ("MÜLLER^JÖRG", "MÜLLER^JÖRG", True),
        ("MU\u0308LLER^JO\u0308RG", "Müller^Jörg", True),
        ("m?ller", "MU\u0308LLER", True),
        ("muller", "MÜLLER", False),
        ("ИВАНОВ^ПЁТР", "Иванов^Пётр", True),
        ("IŞIK^*", "\u0131ş\u0131k^Ali", True),
        ("istanbul", "İSTANBUL", True),
        ("ﾔﾏﾀﾞ^ﾀﾛｳ", "ヤマダ^タロウ", True),
        ("ﾔﾏﾀ?", "ﾔﾏﾀﾞ", True),
        ("house^*", "House", True),  # House^ is the same name
        ("house^*^*", "House=家", True),
        ("house^?*", "House", False),
        ("Doe^ John", "DOE ^JOHN ", True),
        ("[ab]*", "abc", False),
        ("^", "anything", True),
    ],
)
def test_a_name_is_found_by_each_of_its_groups(key: str, value: str, is_match: bool) -> None:
    assert matches_name(key, value) is is_match


def test_a_long_key_takes_no_long_time() -> None:
    started = time.monotonic()
    assert not matches_name("*a" * 10_000 + "b", "a" * 10_000)
    assert not matches_name("^*" * 10_000, "a" * 10_000)
    assert time.monotonic() - started < 20


LETTERS = "aAäÄ山^= *K\u212aßsi\u0131İI\u0307u\u0308ﬁfﾀﾞダ\ufdfaㅎ"


@given(st.text(LETTERS + "?", max_size=6), st.text(LETTERS.replace("*", ""), max_size=8))
@example("ﾀ?", "ﾀﾞ")
@example("?i", "ﬁ")
@example("a^*=*", "A=山")
@settings(max_examples=500)
def test_the_patterns_for_a_database_never_narrow_too_far(key: str, name: str) -> None:
    if not key.strip("*"):
        return
    stored = name_key(name)
    patterns, is_match = name_patterns(key), matches_name(key, name)
    is_narrowed = any(
        matches_wildcards(pattern, stored) for pattern in (patterns.grouped if "=" in stored else patterns.single)
    )
    assert is_narrowed or not is_match
    if patterns.is_exact and "=" not in stored:
        assert is_match or not is_narrowed


@given(st.text(LETTERS, max_size=8).filter(lambda name: "*" not in name))
def test_a_name_matches_itself_in_any_case(name: str) -> None:
    for spelled in (name, name.upper(), name.lower(), name + "^^", name_key(name)):
        assert matches_name(spelled, name), spelled
