"""Only Defined Terms choose a codec, and text is the same wherever it is shown."""

from __future__ import annotations

import subprocess
import sys
import warnings
from io import BytesIO

import pytest
from pydicom import Dataset, dcmread
from pydicom.charset import convert_encodings

from tests.testbed.instances import mr_instance, received
from tests.testbed.names import OTHER_NAMES, STANDARD_NAMES, STANDARD_TEXTS, set_raw
from worker.dicom.character_sets import decode_text
from worker.dicom.header import read_header
from worker.reporting.source_attributes import patient_and_study
from worker.storage.acceptance import instance_path, read_instance

CODECS = ("punycode", "idna", "zip", "unicode_escape", "raw_unicode_escape", "utf-7", "hex", "rot13", "base64", "utf-8")


@pytest.mark.parametrize("term", [*CODECS, "ISO_IR 999", "ISO 2022 IR", "", "x" * 70_000])
def test_no_codec_is_chosen_by_name(term: str) -> None:
    for encodings in (convert_encodings(term), convert_encodings(["", term]), convert_encodings([term, term])):
        assert set(encodings) <= {"ascii", "iso8859"}


@pytest.mark.parametrize(
    ("term", "codec"),
    [
        ("ISO_IR 192", "UTF8"), ("iso_ir 100", "latin_1"), ("ISO_IR_100", "latin_1"), ("ISO8859-1", "latin_1"),
        ("iso-8859-5", "iso_ir_144"), ("8859-15", "iso8859_15"), ("iso 2022 ir 87", "iso2022_jp"),
        ("ISO_IR 100", "latin_1"), ("ISO-IR 100", "latin_1"), ("ISO IR 144", "iso_ir_144"),
        ("ISO 2022 IR 87", "iso2022_jp"), ("ISO-2022-IR-149", "euc_kr"), ("GB18030", "GB18030"),
        ("ISO_IR 6", "iso8859"),
    ],
)  # fmt: skip
def test_a_term_and_its_known_misspellings_choose_its_codec(term: str, codec: str) -> None:
    assert convert_encodings(term) == [codec]


def test_what_is_no_ascii_is_replaced_under_an_unknown_term() -> None:
    assert decode_text(b"M\xfcller", convert_encodings("punycode")) == "M\ufffdller"
    assert decode_text("Müller".encode(), convert_encodings("punycode")) == "Müller"


def of_name(character_set: str | None, raw: bytes) -> Dataset:
    ds = mr_instance()
    if character_set is not None:
        set_raw(ds, "SpecificCharacterSet", character_set.encode(), "CS")
    set_raw(ds, "PatientName", raw, "PN")
    return ds


@pytest.mark.parametrize(("character_set", "raw", "name"), [*STANDARD_NAMES, *OTHER_NAMES])
def test_a_name_is_the_same_in_header_database_and_report(character_set: str | None, raw: bytes, name: str) -> None:
    ds = of_name(character_set, raw)
    request = received(ds)
    assert read_instance(request, instance_path).patient_name.rstrip("=") == name
    header = read_header(BytesIO(bytes(request.encoded)))
    assert str(header.PatientName) == str(dcmread(BytesIO(bytes(request.encoded))).PatientName) == name
    assert str(patient_and_study(header).PatientName) == name


@pytest.mark.parametrize(("character_set", "raw", "text"), STANDARD_TEXTS)
def test_the_sets_begin_anew_on_every_line(character_set: str, raw: bytes, text: str) -> None:
    assert decode_text(raw, convert_encodings(character_set.split("\\"))) == text


def test_each_value_of_several_begins_in_the_initial_sets() -> None:
    ds = of_name("\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3\\Doe^\x1b$)C\xb1\xe6")
    set_raw(ds, "OtherPatientIDs", b"\x1b$)C\xfb\xf3\\B", "LO")
    header = read_header(BytesIO(bytes(received(ds).encoded)))
    assert [str(name) for name in header.PatientName] == ["Hong^Gildong=洪", "Doe^길"]
    assert list(header.OtherPatientIDs) == ["洪", "B"]


def test_a_name_that_was_read_is_written_as_it_was_sent() -> None:
    raw = STANDARD_NAMES[-1][1]
    ds = read_header(BytesIO(bytes(received(of_name("\\ISO 2022 IR 58", raw)).encoded)))
    assert str(ds.PatientName)
    assert ds.PatientName.encode(("iso8859", "iso_ir_58")) == raw.rstrip()


def test_a_cut_within_a_character_does_not_change_the_others() -> None:
    raw = "Müller".encode() * 600
    assert decode_text(raw[:4096], ["iso8859"])[:12] == "MüllerMüller"
    assert decode_text("Müller Café".encode("latin-1"), ["iso8859"]) == "Müller Café"


@pytest.mark.parametrize("value", [b"\x1b", b"\x1b$B", b"\x1b$B;", b"a\x1b$)A\xd5", b"\x1b(", b"\x1b$B\xff;3\x1b-A"])
def test_a_sequence_that_breaks_off_raises_nothing(value: bytes) -> None:
    assert isinstance(decode_text(value, convert_encodings(["", "ISO 2022 IR 87"])), str)


def test_a_long_name_in_punycode_is_read_at_once() -> None:
    with warnings.catch_warnings(action="ignore"):
        ds = mr_instance(SpecificCharacterSet="ISO_IR 192", PatientName="é" * 30_000)
    request = received(ds)
    request.encoded = bytes(request.encoded).replace(b"ISO_IR 192", b"punycode  ")
    assert len(read_instance(request, instance_path).patient_name) == 512


@pytest.mark.parametrize(
    "module",
    [
        "worker.receive.storage_scp", "worker.query_retrieve.scp", "worker.web.app", "worker.jobs.runner",
        "worker.pixels.decode", "worker.pixels.frames", "worker.send.sender", "worker.ops.classify_folder",
        "worker.reporting.source_attributes", "worker.dicom.matching", "monai_train.data.convert",
    ],
)  # fmt: skip
def test_whatever_decodes_text_knows_only_the_terms(module: str) -> None:
    told = f"import {module}; from pydicom.charset import convert_encodings as c; print(c('punycode'))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['ascii']"
