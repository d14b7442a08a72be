"""Spellings that are the same to a search."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.dicom.text.folding import (
    LONGEST_KEY,
    LONGEST_WORD,
    MOST_WORDS,
    fold,
    name_key,
    query_words,
    search_words,
    stored_name_key,
)


def is_found(text: str, name: str = "", patient_id: str = "", accession: str = "") -> bool:
    """As the database does: every word begins with a spelling of each word of the text."""
    words = search_words(patient_id, name, accession)
    wanted = query_words(text)
    return bool(wanted) and all(any(word.startswith(tuple(spelled)) for word in words) for spelled in wanted)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("MÜLLER^JÖRG", "müller^jörg"),
        ("MU\u0308LLER", "müller"),
        ("ИВАНОВ^ПЁТР", "иванов^пётр"),
        ("Straße", "strasse"),
        ("\u0131ş\u0131k IŞIK", "işik işik"),
        ("İSTANBUL", "istanbul"),
        ("ΟΔΥΣΣΕΥΣ οδυσσευς", "οδυσσευσ οδυσσευσ"),
        ("ﾔﾏﾀﾞ", "ヤマダ"),
        ("\uff33\uff4d\uff49\uff54\uff48\u3000A", "smith a"),
    ],
)
def test_case_and_encoding_are_folded_and_accents_kept(text: str, folded: str) -> None:
    assert fold(text) == folded


@given(st.text())
def test_what_is_folded_stays_as_it_is(text: str) -> None:
    assert fold(fold(text)) == fold(text)
    assert name_key(name_key(text)) == name_key(text)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Doe^John^^^", "doe^john"),
        ("Doe ^ John =山田^ =", "doe^john=山田"),
        ("^^=^=", ""),
        ("", ""),
    ],
)
def test_padding_and_null_components_are_no_part_of_a_key(name: str, key: str) -> None:
    assert name_key(name) == key


def test_a_key_that_is_too_long_for_the_database_is_empty() -> None:
    assert stored_name_key("é" * LONGEST_KEY) == "é" * LONGEST_KEY
    assert stored_name_key("\ufdfa" * LONGEST_KEY) == ""  # a ligature of 18 letters


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Fontaine, Hugo", "FONTAINE^HUGO"),
        ("Hugo", "FONTAINE^HUGO"),
        ("hugo fontaine", "FONTAINE^HUGO"),
        ("hug font", "FONTAINE^HUGO"),
        ("fontaine^hugo", "FONTAINE^HUGO"),
        ("muller", "MÜLLER^JÖRG"),
        ("Müller", "MULLER^JORG"),
        ("mueller", "Müller^Jörg"),
        ("Müller", "MUELLER^JOERG"),
        ("jörg MÜLL", "Mu\u0308ller^Jo\u0308rg"),
        ("петр иванов", "ИВАНОВ^ПЁТР"),
        ("obrien", "O'Brien^Anne"),
        ("brien", "O'Brien^Anne"),
        ("lüdenscheidt", "Müller-Lüdenscheidt^A"),
        ("müller-lüden", "Müller-Lüdenscheidt^A"),
        ("strasse", "STRAßE"),
        ("isik", "IŞIK^ALİ"),
        ("ali \u0131ş\u0131k", "IŞIK^ALİ"),
        ("山田太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("太郎", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("tarou yamada", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ヤマダ", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
        ("길동", "Hong^Gildong=洪^吉洞=홍^길동"),
        ("Lodz", "Łódź"),
    ],
)
def test_a_name_is_found_without_accents_and_in_any_order(text: str, name: str) -> None:
    assert is_found(text, name)


def test_each_part_of_an_identifier_is_found() -> None:
    assert is_found("0815", accession="ACC-2026/0815")
    assert is_found("2026/08", accession="ACC-2026/0815")
    assert is_found("acc20260815", accession="ACC-2026/0815")
    assert is_found("345", patient_id="ID 12345")
    assert is_found("hugo 0815", "FONTAINE^HUGO", accession="ACC-2026/0815")


def test_what_is_in_no_word_is_not_found() -> None:
    assert not is_found("ontaine", "FONTAINE^HUGO")
    assert not is_found("hugo smith", "FONTAINE^HUGO")
    assert not is_found("45", patient_id="12345")
    assert not is_found("%_*", "FONTAINE^HUGO")
    assert not is_found("ガ", "カ^A")


def test_a_long_text_makes_few_words() -> None:
    words = search_words("7" * 500, "a b " * 120, "x" * 500)
    assert len(words) <= MOST_WORDS
    assert max(map(len, words)) <= LONGEST_WORD
    assert is_found("a" * 500, "a" * 500)
