"""The entries that have the words of a text, whether few or many have them."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from tests.testbed.instances import later, new_instance
from worker.db.engine import Database
from worker.db.instances import add_instance
from worker.db.tables import SeriesRow
from worker.db.views.search_words import few_entries, first_entries, has_words, leaves_some


@pytest.fixture
def named(database: Database) -> Database:
    with database.write() as session:
        for series, name in {"a": "Müller^Jörg", "b": "MUELLER^ANNA", "c": "Doe%^Anna"}.items():
            add_instance(session, new_instance(1, series, patient_name=name), later(0))
    return database


@pytest.mark.parametrize(
    ("text", "expected"),
    [("müller", "ab"), ("anna", "bc"), ("anna müller", "b"), ("doe%", "c"), ("_", ""), ("acc anna", "bc"), ("d%", "c")],
)
def test_few_and_many_entries_are_the_same(named: Database, text: str, expected: str) -> None:
    def series_of(session: object, condition: object) -> str:
        query = select(SeriesRow.patient_id).where(condition)  # type: ignore[arg-type]
        return "".join(sorted(text.removeprefix("ID-") for text in session.scalars(query)))  # type: ignore[attr-defined]

    with named.read() as session:
        few = few_entries(session, text, 10)
        assert few is not None
        assert series_of(session, SeriesRow.search_entry_id.in_(few)) == expected
        if expected:
            assert few_entries(session, text, 0) is None
            assert series_of(session, has_words(text)) == expected
            assert set(few) <= set(session.scalars(first_entries(text, 10)))
            assert len(session.scalars(first_entries(text, 1)).all()) == 1


@pytest.mark.parametrize(("most", "leaves"), [(1, True), (2, False), (10, False)])
def test_what_is_left_out_is_known(named: Database, most: int, leaves: bool) -> None:
    with named.write() as session:  # many words that begin alike are still a single entry
        names = "Anna^Anne Annette Annabel Annika Annalena Annemarie"
        add_instance(session, new_instance(1, "e", patient_name=names), later(0))
    with named.read() as session:
        assert leaves_some(session, "annabel anna", 1) is False  # of the longest word, which one entry has
        assert leaves_some(session, "mueller", most) is leaves
        assert (few_entries(session, "mueller", most) is None) is leaves
        assert few_entries(session, "ann", 2) is None
        assert len(few_entries(session, "ann", 10) or ()) == 3
        assert len(session.scalars(first_entries("ann", 2)).all()) <= 2
