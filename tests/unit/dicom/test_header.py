"""Headers, read with bounded memory."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pydicom import DataElement, Dataset, dcmread, dcmwrite
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)

from tests.faults import mutate
from tests.testbed import bombs
from tests.testbed.instances import encoded, mr_instance
from worker.dicom.header import parse_header, parse_message, read_header, read_stored_header
from worker.dicom.sources import INFLATED_BYTES, TooComplex


@pytest.mark.parametrize("keywords", [None, ["PatientID", "SeriesInstanceUID"]])
def test_a_deflated_file_gives_the_header_that_the_plain_one_gives(keywords: list[str] | None) -> None:
    ds = mr_instance()
    plain = encoded(ds)
    content = mutate.encode(ds, DeflatedExplicitVRLittleEndian)
    deflated = mutate.as_file(
        mutate.Mutant("", DeflatedExplicitVRLittleEndian, ds.SOPClassUID, ds.SOPInstanceUID, content)
    )
    expected = read_header(BytesIO(plain), keywords)
    assert "PixelData" not in expected
    assert read_header(BytesIO(deflated), keywords) == expected


def test_a_deflate_bomb_is_not_inflated() -> None:
    mutants = (mutate.dataset(number) for number in count() if mutate.kind(number) == "deflate bombs")
    bomb = next(mutant for mutant in mutants if len(mutant.encoded) > 1 << 16)
    file = BytesIO(mutate.as_file(bomb))
    tracemalloc.start()
    try:
        read_header(file, ["PatientID"])
    except TooComplex:
        pass  # cut in the middle of the value that is the bomb
    finally:
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert highest < 4 * INFLATED_BYTES < mutate.BOMB_BYTES


def test_a_stored_header_is_read_without_what_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, rows = encoded(mr_instance()), b"\x28\x00\x10\x00US"
    assert content.count(rows + b"\x02\x00\x10\x00") == 1
    (tmp_path / "odd.dcm").write_bytes(content.replace(rows + b"\x02\x00\x10\x00", rows + b"\x01\x00\x10"))
    ds = read_stored_header(tmp_path / "odd.dcm", ["Rows", "Columns", 0x00100020])
    assert {element.keyword: element.value for element in ds} == {"Columns": 16, "PatientID": "ID-a"}
    (tmp_path / "folder.dcm").mkdir()
    assert len(read_stored_header(tmp_path / "folder.dcm")) == 0
    assert "header not read" in "".join(capsys.readouterr())
    assert len(read_stored_header(tmp_path / "gone.dcm")) == 0
    assert capsys.readouterr() == ("", "")  # retention may have deleted it


@pytest.mark.parametrize("name", [name for name in bombs.BOMBS if "MiB of" in name and not bombs.BOMBS[name][2]])
def test_what_is_read_whole_is_refused_before_its_values_are_split(name: str) -> None:
    encoded = bytes(bombs.request(name).encoded)
    dataset = bombs.BOMBS[name][1]()
    tracemalloc.start()
    try:
        with pytest.raises(TooComplex):
            read_header(BytesIO(encoded))
        with pytest.raises(TooComplex):
            parse_message(BytesIO(dataset), "items" not in name, True)
    finally:
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert highest < 3 * len(encoded)


def test_values_within_sequences_count_and_bytes_that_look_like_their_ends_do_not() -> None:
    names = bombs.item(*[bombs.element(0x00100010, b"PN", b"A^\\" * 20_000)] * 5)
    with pytest.raises(TooComplex, match="values"):
        parse_message(BytesIO(bombs.explicit(bombs.undefined(0x00081140, b"SQ", names))), False, True)
    binary = [bombs.element(0x00091001 + n, b"UN", random.Random(n).randbytes(1 << 20)) for n in range(20)]
    assert len(parse_message(BytesIO(bombs.explicit(*binary)), False, True)) == 20 + 7


_ISO_2022 = bombs.element(0x00080005, b"CS", b"\\ISO 2022 IR 87")


@pytest.mark.parametrize(
    ("hostile", "too_many"),
    [
        pytest.param(lambda: bombs.element(0x00091001, b"OB", bytes(33 << 20)), "bytes", id="binary"),
        pytest.param(
            lambda: b"".join(bombs.element(0x00091001 + n, b"OB", bytes(3 << 20)) for n in range(11)), "bytes", id="sum"
        ),
        pytest.param(lambda: bombs.element(0x00189999, b"UT", b"a" * (33 << 20)), "bytes", id="text"),
        pytest.param(
            lambda: _ISO_2022 + bombs.element(0x00189999, b"UT", b"\x1b(B" * (1 << 19)), "escape", id="escapes"
        ),
        pytest.param(
            lambda: _ISO_2022 + bombs.element(0x00104000, b"UN", b"\x1b$B!!a " * (1 << 18)), "escape", id="un-of-a-text"
        ),
        pytest.param(
            lambda: bombs.element(0x00190010, b"LO", b"GEMS_ACQU_01")
            + bombs.element(0x0019109B, b"UN", b"1\\" * (1 << 20)),
            "values", id="private-that-pydicom-knows",
        ),
    ],
)  # fmt: skip
def test_of_a_header_that_is_read_whole_bytes_and_escape_sequences_are_counted(
    hostile: Callable[[], bytes], too_many: str
) -> None:
    content = bytes(bombs.request("10,000 sequences within one another", bombs.explicit(hostile())).encoded)
    with pytest.raises(TooComplex, match=too_many):
        read_header(BytesIO(content))
    assert read_header(BytesIO(content), ["PatientID"]).PatientID == "P"


# --- as pydicom reads it -----------------------------------------------------------------------------------------

_SYNTAXES = (
    ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
)  # fmt: skip
_TEXTS = {
    "ISO_IR 6": "plain", "ISO_IR 100": "Müller", "ISO_IR 192": "山田^太郎=Ωmega", "GB18030": "王小东",
    "ISO_IR 144": "Ж",
}  # fmt: skip
_VALUES: dict[str, Callable[[random.Random, str], Any]] = {
    "AE": lambda chance, _text: "AE" * chance.randrange(1, 4),
    "AS": lambda _chance, _text: "030Y",
    "AT": lambda _chance, _text: 0x00100010,
    "CS": lambda chance, _text: ["ORIGINAL", "PRIMARY", "M"][: chance.randrange(4)],
    "DA": lambda _chance, _text: "20260301",
    "DS": lambda chance, _text: [str(chance.randrange(999) / 10) for _ in range(chance.randrange(4))],
    "DT": lambda _chance, _text: "20260301120000.5",
    "FD": lambda chance, _text: [chance.random() for _ in range(chance.randrange(4))],
    "FL": lambda _chance, _text: 0.5,
    "IS": lambda chance, _text: str(chance.randrange(99)),
    "LO": lambda chance, text: text * chance.randrange(3),
    "LT": lambda chance, text: text * chance.randrange(90),
    "OB": lambda chance, _text: chance.randbytes(2 * chance.randrange(99)),
    "OD": lambda chance, _text: chance.randbytes(8 * chance.randrange(9)),
    "OF": lambda chance, _text: chance.randbytes(4 * chance.randrange(9)),
    "OL": lambda chance, _text: chance.randbytes(4 * chance.randrange(9)),
    "OV": lambda chance, _text: chance.randbytes(8 * chance.randrange(9)),
    "OW": lambda chance, _text: chance.randbytes(2 * chance.randrange(99)),
    "PN": lambda _chance, text: text,
    "SH": lambda _chance, text: text[:8],
    "SL": lambda chance, _text: -chance.randrange(99),
    "SS": lambda chance, _text: -chance.randrange(99),
    "ST": lambda _chance, text: text,
    "SV": lambda chance, _text: -chance.randrange(1 << 40),
    "TM": lambda _chance, _text: "120000.25",
    "UC": lambda _chance, text: text,
    "UI": lambda chance, _text: f"1.2.{chance.randrange(9999)}",
    "UL": lambda chance, _text: chance.randrange(1 << 32),
    "UN": lambda chance, _text: b"\7" + chance.randbytes(2 * chance.randrange(9) + 1),
    "UR": lambda _chance, _text: "http://example.org",
    "US": lambda chance, _text: chance.randrange(1 << 16),
    "UT": lambda _chance, text: text * 40,
    "UV": lambda chance, _text: chance.randrange(1 << 40),
}
_BY_VR = {
    vr: [tag for tag, entry in DicomDictionary.items() if entry[0] == vr and 8 < tag >> 16 < 0x7FE0] for vr in _VALUES
}


def generated(chance: random.Random, text: str, depth: int = 3) -> Dataset:
    """A dataset of any VRs, with sequences of either kind of length, private ones too."""
    ds = Dataset()
    for vr, tags in _BY_VR.items():
        if chance.random() < 0.5:
            tag = chance.choice(tags) if tags else 0x00091000 + chance.randrange(256)
            ds.add(DataElement(tag, vr, _VALUES[vr](chance, text)))
    for tag in (0x00081140, 0x00400275, 0x00091070) if depth else ():
        if chance.random() < 0.6:
            items = [generated(chance, text, depth - 1) for _ in range(chance.randrange(3))]
            for item in items:
                item.is_undefined_length_sequence_item = chance.random() < 0.5
            ds.add(DataElement(tag, "SQ", items))
            ds[tag].is_undefined_length = chance.random() < 0.5
    return ds


def as_file(chance: random.Random, syntax: UID, term: str, text: str) -> bytes:
    ds = generated(chance, text)
    ds.SpecificCharacterSet = term
    ds.SOPClassUID, ds.SOPInstanceUID, ds.PatientName = MRImageStorage, "1.2.3", text
    ds.PixelData = b"\0\1" * 4
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = MRImageStorage, "1.2.3"
    file = BytesIO()
    dcmwrite(file, ds, enforce_file_format=True)
    return file.getvalue()


def values(ds: Dataset) -> list[Any]:
    """Every value, decoded, as it is written: NaN is like NaN. Of what cannot be read, the fault."""
    return [_value(ds, tag) for tag in sorted(ds.keys())]


def _value(ds: Dataset, tag: int) -> Any:
    try:
        element = ds[tag]
        if element.VR == "SQ":
            return [int(tag), *map(values, element.value)]
        return f"{element.tag} {element.VR} {element.value!r}"
    except Exception as fault:
        return f"{int(tag):08X} {type(fault).__name__}"


@pytest.mark.parametrize("syntax", _SYNTAXES, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("term", _TEXTS)
@pytest.mark.filterwarnings("ignore")
def test_a_generated_header_has_the_values_that_pydicom_reads(syntax: UID, term: str) -> None:
    for seed in range(20):
        chance = random.Random(f"{seed} {syntax} {term}")
        content = as_file(chance, syntax, term, _TEXTS[term])
        theirs = dcmread(BytesIO(content), stop_before_pixels=True)
        ours = read_header(BytesIO(content))
        assert values(ours) == values(theirs)
        assert values(ours.file_meta) == values(theirs.file_meta)
        keywords = ["PatientName", "SOPInstanceUID", "ReferencedImageSequence", *theirs.dir()[:5]]
        some = dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=keywords)
        assert values(read_header(BytesIO(content), keywords)) == values(some)
        assert values(parse_header(bytearray(content), syntax, keywords).dataset) == values(some)


@pytest.mark.parametrize("syntax", _SYNTAXES[:3], ids=lambda syntax: syntax.name)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_header_is_read_or_refused(syntax: UID) -> None:
    """Where both readers get the UIDs of the instance, they get the same; nothing but an Exception is raised."""
    differ = 0
    for seed in range(300):
        chance = random.Random(seed)
        content = bytearray(as_file(chance, syntax, "ISO_IR 100", "Müller"))
        for _ in range(chance.randrange(1, 4)):
            content[chance.randrange(300, len(content))] = chance.choice((0, 1, 0xFE, 0xFF, chance.randrange(256)))
        with suppress(Exception):
            ours = parse_header(content, syntax, ["SOPInstanceUID"]).dataset
            theirs = dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
            differ += "SOPInstanceUID" in theirs and values(ours) != values(theirs)
    assert differ == 0
