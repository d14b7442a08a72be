"""The conditions in SQL select what the matcher selects, on both databases."""

from __future__ import annotations

from dataclasses import replace
from unicodedata import normalize

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom import DataElement, Dataset
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.tag import Tag
from sqlalchemy import select, update

from worker.db.engine import Database
from worker.db.tables import SeriesRow
from worker.db.views.archive import Study, match_instances, match_series, match_studies
from worker.db.views.archive_matching import Keys, split_keys
from worker.dicom.matching import Key, keys_of_parameters, matches
from worker.dicom.standard import derive_uid
from worker.dicom.text.folding import stored_name_key
from worker.dicom.text.printable import LONGEST_TEXT

_B = derive_uid("study", "b")


def _studies(archive: Database, **keys: object) -> list[str]:
    with archive.read() as session:
        studies = match_studies(session, replace(Keys(), **keys))  # type: ignore[arg-type]
    names = {derive_uid("study", name): name for name in "ab"}
    return [names[study.study_instance_uid] for study in studies]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"patient_names": ("müller_X^*",)}, "a"),
        ({"patient_names": ("MU\u0308LLER_X^ADA",)}, "a"),
        ({"patient_names": ("Müller_X^Ada^^^",)}, "a"),
        ({"patient_names": ("muller*",)}, ""),
        ({"patient_names": ("bo[B]^*",)}, "b"),
        ({"patient_names": ("MÜLLER_x^ada",)}, "a"),
        ({"patient_names": ("山田",)}, "a"),
        ({"patient_names": ("müller_x^ada=山?",)}, "a"),
        ({"patient_names": ("nobody", "bo[[]b]", "bo[b]^^")}, "b"),
        ({"patient_names": ("*a" * 200 + "b",)}, ""),
        ({"patient_names": ("a\0*",)}, ""),
        ({"patient_names": ("m?ller?x^ada",)}, "a"),
        ({"patient_names": ("Mxller*",)}, ""),
        ({"patient_names": ("*",)}, "ba"),
        ({"patient_names": ("bo[b]",)}, "b"),
        ({"patient_names": ("bo[b]*",)}, "b"),
        ({"patient_ids": ("ID_b%",)}, "b"),
        ({"patient_ids": ("ID_*",)}, "b"),
        ({"patient_ids": ("id-*",)}, ""),
        ({"patient_ids": ("ID-?",)}, "a"),
        ({"study_dates": ("20260301",)}, "a"),
        ({"study_dates": ("20250101-20250101",)}, "b"),
        ({"study_dates": ("-20251231",)}, "b"),
        ({"study_dates": ("20250102-",)}, "a"),
        ({"modalities_in_study": ("SR",)}, "a"),
        ({"modalities_in_study": ("MR", "XX")}, "ba"),
        ({"modalities_in_study": ("KO",)}, ""),
        ({"modalities_in_study": ("S?",)}, "a"),
        ({"modalities_in_study": ("M*", "XX")}, "ba"),
        ({"patient_ids": ("nobody", "ID_b%")}, "b"),
        ({"patient_ids": ("?" * 60_000 + "*",)}, ""),
        ({"patient_ids": ("\0",)}, ""),
        ({"study_dates": ("2026-2026",)}, "a"),
        ({"study_dates": ("20250101", "20260301")}, "ba"),
        ({"study_dates": ("2026*",)}, ""),
        ({"study_dates": ("\0-",)}, ""),
        ({"study_instance_uids": ("\0",)}, ""),
        ({"study_instance_uids": (derive_uid("study", "b"), "1.2")}, "b"),
    ],
)
def test_studies_match_as_the_standard_says(archive: Database, keys: dict[str, object], expected: str) -> None:
    assert "".join(_studies(archive, **keys)) == expected


_CHARACTERS = "aAbÄäßİﬁ\u0308山^= *?[]%_-01"
_FIELDS = {"PatientName": "patient_names", "PatientID": "patient_ids", "StudyDate": "study_dates"}


@given(
    values=st.fixed_dictionaries({name: st.text(_CHARACTERS, max_size=5).map(str.strip) for name in _FIELDS.values()}),
    keyword=st.sampled_from(sorted(_FIELDS)),
    key=st.text(_CHARACTERS + "\\", max_size=5),
)
@example({"patient_names": "A^=Ä", "patient_ids": "", "study_dates": ""}, "PatientName", "ä")
@example({"patient_names": "ab=ba", "patient_ids": "", "study_dates": ""}, "PatientName", "a*a")
@settings(max_examples=300)
def test_the_database_matches_as_the_matcher_does(
    archive: Database, values: dict[str, str], keyword: str, key: str
) -> None:
    keys = keys_of_parameters([([Tag(keyword)], key)])
    ds = Dataset()
    for name, field in _FIELDS.items():
        ds.add(DataElement(name, dictionary_VR(name), values[field], validation_mode=IGNORE))
    in_database, others = split_keys(keys)
    assert others == ()
    with archive.write() as session:
        for field, text in values.items():
            column = getattr(SeriesRow, field.removesuffix("s"))
            session.execute(update(SeriesRow).where(SeriesRow.study_instance_uid == _B).values({column: text}))
        key = stored_name_key(values["patient_names"])
        session.execute(update(SeriesRow).where(SeriesRow.study_instance_uid == _B).values(name_key=key))
        found = match_studies(session, in_database)
        session.rollback()
    assert (_B in [study.study_instance_uid for study in found]) is matches(keys, ds)


NAMES = [
    "MÜLLER^JÖRG", "Mu\u0308ller^Jo\u0308rg", "ИВАНОВ^ПЁТР", "Straße^Jürgen", "IŞIK^İbrahim", "y\u0131lmaz^ay\u015fe",
    "Yamada^Tarou=山田^太郎=やまだ^たろう", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎", "Hong^Gildong=洪^吉洞=홍^길동", "Doe^John^^^",
    "=王^小东=",
    "قباني^لنزار",
    "ΠΑΠΑΔΟΠΟΥΛΟΣ^ΓΙΏΡΓΟΣ",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_found_however_it_is_written(archive: Database, name: str) -> None:
    groups = [group for group in name.rstrip("^=").split("=") if group]
    written = {name, name.upper(), name.lower(), name.title(), name + "^^", *groups}
    written |= {normalize(form, name) for form in ("NFC", "NFD", "NFKC")}
    written |= {group[: len(group) // 2] + "*" for group in groups} | {"*" + group[1:] for group in groups}
    composed = [normalize("NFC", group) for group in groups]
    written |= {"?" + group[1:] for group in composed} | {group[:-1] + "?" for group in composed}
    with archive.write() as session:
        for row in session.scalars(select(SeriesRow).where(SeriesRow.study_instance_uid == _B)):
            row.patient_name = name
        session.flush()
        missed = [key for key in written if _B not in _uids(match_studies(session, Keys(patient_names=(key,))))]
        others = match_studies(session, Keys(patient_names=("x" + name, name + "x", name[1:])))
        session.rollback()
    assert missed == []
    assert _B not in _uids(others)


def test_a_name_too_long_for_its_key_is_found(archive: Database) -> None:
    name = "\ufdfa" * LONGEST_TEXT  # its key is 18 times as long
    with archive.write() as session:
        for row in session.scalars(select(SeriesRow).where(SeriesRow.study_instance_uid == _B)):
            row.patient_name = name
        session.flush()
        found = [_uids(match_studies(session, Keys(patient_names=(key,)))) for key in (name, "\ufdfa*", "x*")]
        session.rollback()
    assert found == [[_B], [_B], []]


def _uids(studies: list[Study]) -> list[str]:
    return [study.study_instance_uid for study in studies]


def test_a_patient_is_found_by_identifier_and_by_pseudonym_where_pseudonyms_are_kept(archive: Database) -> None:
    with archive.read() as session:
        session.info["pseudonym"] = lambda text: {"Miller": "ID-a"}.get(text, "nobody")
        assert len(match_studies(session, Keys(patient_ids=("Miller",)))) == 1
        assert len(match_studies(session, Keys(patient_ids=("ID-a",)))) == 1


def test_modalities_of_series_and_instances_take_wildcards(archive: Database) -> None:
    with archive.read() as session:
        assert {series.modality for series in match_series(session, Keys(modalities=("?R",)))} == {"MR", "SR"}
        assert {instance.modality for instance in match_instances(session, Keys(modalities=("C*", "S*")))} == {
            "CT",
            "SR",
        }
        assert match_instances(session, Keys(modalities=("X*",))) == []


def test_keys_of_the_database_are_told_from_those_of_headers() -> None:
    item = Key(0x00080100, "SH", ("1",))
    number, sequence = Key(0x00200011, "IS", ("7",)), Key(0x00100010, "SQ", item=(item,))
    name, modality = Key(0x00100010, "PN", ("a*", "b")), Key(0x00080061, "CS", ("MR",))
    keys, others = split_keys([number, name, modality])
    assert keys == Keys(patient_names=("a*", "b"), modalities_in_study=("MR",))
    assert others == (number,)
    assert split_keys([sequence]) == (Keys(), (sequence,))  # of a peer that sends a name as a sequence
