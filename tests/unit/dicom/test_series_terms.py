from __future__ import annotations

import time

import pytest

from worker.dicom.series_terms import BY_NAME, Sequence, find_terms, meanings, plain_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("t2_tirm_tra_dark-fluid", " t2 tirm tra dark fluid "),
        ("mocoMEMPRAGE_220FOV", " mocomemprage 220fov  |  moco memprage 220 fov "),
        ("Übersicht T2*", " ubersicht t2* "),
        ("T1+C", " t1+c  |  t1 +c "),
        ("", "  "),
    ],
)
def test_plain_words_split_what_stands_together(text: str, words: str) -> None:
    assert plain_words(text) == words


@pytest.mark.parametrize("text", ["allocation", "compost", "T12", "discussion", "facade", "postal", "nation", "pdf"])
def test_a_part_of_a_word_is_no_term(text: str) -> None:
    assert find_terms(text) == ()


def test_a_denied_agent_is_none() -> None:
    assert find_terms("T1 without contrast") == ("T1", "without")


def test_names_of_terms_are_unambiguous_and_survive_a_later_table() -> None:
    assert all(BY_NAME[name].name == name for name in BY_NAME)
    assert [term.meaning for term in meanings(["T1", "gone in this version"])] == [Sequence.T1]


@pytest.mark.parametrize(
    "text", ["a" * 100_000, "t1 " * 50_000, "w o " * 9_000, "b 9" * 9_000, "\\" * 9_000, "é" * 9_000]
)
def test_hostile_texts_take_no_time(text: str) -> None:
    begun = time.process_time()
    find_terms(text)
    assert time.process_time() - begun < 0.5
