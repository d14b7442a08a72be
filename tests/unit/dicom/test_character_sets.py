"""Only Defined Terms choose a codec; anything else is ASCII."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
from pydicom.charset import convert_encodings, decode_bytes

import worker.dicom.character_sets  # noqa: F401 - what is tested
from tests.testbed.instances import mr_instance, received
from worker.storage.acceptance import instance_path, read_instance

CODECS = ("punycode", "idna", "zip", "unicode_escape", "raw_unicode_escape", "utf-7", "hex", "rot13", "base64", "utf-8")


@pytest.mark.parametrize("term", [*CODECS, "ISO_IR 999", "ISO 2022 IR", "", "x" * 70_000])
def test_no_codec_is_chosen_by_name(term: str) -> None:
    for encodings in (convert_encodings(term), convert_encodings(["", term]), convert_encodings([term, term])):
        assert set(encodings) <= {"ascii", "iso8859"}


@pytest.mark.parametrize(
    ("term", "codec"),
    [
        ("ISO_IR 192", "UTF8"), ("ISO_IR 100", "latin_1"), ("ISO-IR 100", "latin_1"), ("ISO IR 144", "iso_ir_144"),
        ("ISO 2022 IR 87", "iso2022_jp"), ("ISO-2022-IR-149", "euc_kr"), ("GB18030", "GB18030"),
        ("ISO_IR 6", "iso8859"),
    ],
)  # fmt: skip
def test_a_term_and_its_known_misspellings_choose_its_codec(term: str, codec: str) -> None:
    assert convert_encodings(term) == [codec]


def test_what_is_no_ascii_is_replaced_under_an_unknown_term() -> None:
    with pytest.warns(UserWarning, match="replacement characters"):
        assert decode_bytes(b"M\xfcller", convert_encodings("punycode"), set()) == "M\ufffdller"


def test_a_long_name_in_punycode_is_read_at_once() -> None:
    with warnings.catch_warnings(action="ignore"):
        ds = mr_instance(SpecificCharacterSet="ISO_IR 192", PatientName="é" * 30_000)
    request = received(ds)
    request.encoded = bytes(request.encoded).replace(b"ISO_IR 192", b"punycode  ")
    assert len(read_instance(request, instance_path).patient_name) == 324


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
