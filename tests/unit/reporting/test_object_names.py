"""Names and numbers by which the objects of a study are told apart."""

from __future__ import annotations

from itertools import product

import pytest
from pydicom import Dataset

from tests.testbed.results import source_headers
from worker.db.tables import ObjectKind
from worker.reporting.object_names import object_title, series_number, series_title, study_series_number


def _source(uid: str = "1.2.3", **attributes: object) -> Dataset:
    return source_headers(1, SeriesInstanceUID=uid, **attributes)[0]


@pytest.mark.parametrize(
    ("attributes", "title"),
    [
        ({"SeriesNumber": 5, "SeriesDescription": "AX T1 POST"}, "AI brain MRI: 5 AX T1 POST"),
        ({"SeriesNumber": None, "SeriesDescription": "AX T1"}, "AI brain MRI: AX T1"),
        ({"SeriesNumber": 7, "SeriesDescription": None}, "AI brain MRI: 7"),
        ({"SeriesNumber": None}, "AI brain MRI: a series without a number"),
        ({"SeriesNumber": "x", "SeriesDescription": "a\\b"}, "AI brain MRI: ab"),
    ],
)
def test_a_series_is_called_by_its_number_and_description(attributes: dict[str, object], title: str) -> None:
    assert series_title(_source(**attributes)) == title


def test_a_long_title_is_cut_and_its_kind_is_not() -> None:
    titles = [object_title("AI brain MRI: 5 " + "W" * 90, kind) for kind in ObjectKind]
    assert len(set(titles)) == 3
    assert max(map(len, titles)) == 64
    assert titles[1].endswith("W, picture")


def test_no_two_objects_of_a_study_have_the_same_number() -> None:
    numbers: list[object] = [None, 0, 1, 2, 3, 3, 3, 12, 101, 9999, 123456, 2147483647, -5]
    sources = [_source(f"1.2.{index}", SeriesNumber=number) for index, number in enumerate(numbers)]
    given = [series_number(source, kind) for source, kind in product(sources, ObjectKind)]
    given += [study_series_number(kind) for kind in ObjectKind]
    assert len(set(given)) == len(given)
    assert 1_000_000_000 < min(given) <= max(given) < 2**31
    assert series_number(sources[3], ObjectKind.REPORT) < series_number(sources[4], ObjectKind.REPORT)


@pytest.mark.parametrize(
    ("character_set", "encoding", "description"),
    [
        ("\\ISO 2022 IR 87", "iso2022_jp", "頭部 造影 T1"),
        ("GB18030", "gb18030", "颅脑 增强 T1"),
        ("ISO_IR 192", "utf-8", "뇌 조영 T1"),
    ],
)
def test_a_description_in_any_script_is_whole_in_the_title(character_set: str, encoding: str, description: str) -> None:
    source = _source(SeriesNumber=4, SpecificCharacterSet=character_set, SeriesDescription=description.encode(encoding))
    assert object_title(series_title(source), ObjectKind.PICTURE) == f"AI brain MRI: 4 {description}, picture"
