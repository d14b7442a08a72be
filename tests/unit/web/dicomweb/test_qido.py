"""Pages of a search, from the database and from headers."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import Dataset

from tests.testbed.instances import later, mr_instance, received
from worker.db.engine import Database
from worker.dicom.standard import derive_uid
from worker.storage.keeper import InstanceKeeper
from worker.web.dicomweb import qido
from worker.web.dicomweb.attributes import AttributeReader
from worker.web.dicomweb.parameters import Level, parse
from worker.web.dicomweb.qido import TooBroad, find


@pytest.fixture
def attributes(database: Database, tmp_path: Path) -> AttributeReader:
    """Of six images in a series."""
    keeper = InstanceKeeper(database, tmp_path, lambda: later(0), 0)
    for number in range(1, 7):
        keeper.keep(received(mr_instance(number, "a", ImageType=["ORIGINAL", "PRIMARY", "M" if number % 2 else "P"])))
    keeper.close()
    return AttributeReader(tmp_path, pseudonymised=False)


def page(database: Database, attributes: AttributeReader, **parameters: str) -> tuple[list[int], bool]:
    """The instance numbers, and whether more follow."""
    query = parse(parameters.items(), Level.INSTANCE, {"StudyInstanceUID": derive_uid("study", "a")})
    with database.read() as session:
        result = find(session, query, attributes, None, "")
    return [int(Dataset.from_json(found).InstanceNumber) for found in result.results], result.has_more


def test_a_page_of_large_headers_ends_early(
    database: Database, attributes: AttributeReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qido, "WHOLE_BYTES", 2000)
    for parameters in ({}, {"ImageType": "PRIMARY"}):
        numbers, offset = [], 0
        while True:
            found, has_more = page(database, attributes, offset=str(offset), includefield="all", **parameters)
            assert 1 <= len(found) <= 2
            numbers += found
            offset += len(found)
            if not has_more:
                break
        assert numbers == [1, 2, 3, 4, 5, 6]


def test_pages_of_the_database_and_of_headers_are_alike(database: Database, attributes: AttributeReader) -> None:
    assert page(database, attributes) == ([1, 2, 3, 4, 5, 6], False)
    assert page(database, attributes, limit="4", offset="1") == ([2, 3, 4, 5], True)
    assert page(database, attributes, ImageType="M") == ([1, 3, 5], False)
    assert page(database, attributes, ImageType="M", limit="2") == ([1, 3], True)
    assert page(database, attributes, ImageType="M", limit="2", offset="1") == ([3, 5], False)
    assert page(database, attributes, ImageType="M", offset="3") == ([], False)
    assert page(database, attributes, limit="0") == ([], True)


def test_a_search_reads_no_more_headers_than_it_may(
    database: Database, attributes: AttributeReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qido, "HEADERS_AT_MOST", 5)
    with pytest.raises(TooBroad):
        page(database, attributes, ImageType="M")
    assert page(database, attributes, limit="6") == ([1, 2, 3, 4, 5, 6], False)
