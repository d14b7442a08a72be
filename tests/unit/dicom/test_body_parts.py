from __future__ import annotations

import pytest
from pydicom.sr._concepts_dict import concepts
from pydicom.sr._snomed_dict import mapping

from worker.dicom.body_parts import BRAIN_TERMS, normal_term, part_of_code, parts_in_text, parts_of_coil, shows_brain


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("LEFT WRIST", "WRIST"),
        ("MEMBRE INF^GENOU", "KNEE"),
        ("IRM CÉRÉBRALE", "BRAIN"),
        ("MRT Kopf", "HEAD"),
        ("RM rodilla derecha", "KNEE"),
        ("Ombro esquerdo", "SHOULDER"),
        ("RM encefalo", "BRAIN"),
        ("Humeral head", "HIP"),
        ("LWS nativ", "SPINE"),
        ("ACR phantom", "PHANTOM"),
    ],
)
def test_a_text_names_body_parts_in_six_languages(text: str, part: str) -> None:
    assert part in parts_in_text(text)
    assert "HEAD" not in parts_in_text(text) or part == "HEAD"


def test_a_protocol_of_the_main_room_is_no_hand() -> None:
    assert parts_in_text("MAIN PROTOCOL") == ()


@pytest.mark.parametrize(
    ("value", "meaning", "part"),
    [("T-A0100", "", "BRAIN"), ("12738006", "Gehirn", "BRAIN"), ("X", "Knee joint", "KNEE"), ("X", "Great toe", "FOOT"),
     ("X", "Aortic arch", "AORTICARCH"), ("", "", "")],
)  # fmt: skip
def test_a_code_is_a_part(value: str, meaning: str, part: str) -> None:
    assert part_of_code(value, meaning) == part


def test_a_coil_for_any_part_names_none() -> None:
    assert (parts_of_coil("Body_18"), parts_of_coil("Spine_32"), parts_of_coil("HeadNeck_64")) == ((), (), ("HEAD",))


def test_terms_are_compared_without_spelling() -> None:
    assert normal_term("Head_Neck") == "HEADNECK"
    assert shows_brain(["head neck"])
    assert not shows_brain(["KNEE", ""])
    assert {normal_term(term) for term in BRAIN_TERMS} == set(BRAIN_TERMS)


@pytest.mark.parametrize(
    "term",
    # PS3.16 Table L-1: the head, and what lies within the skull.
    ["3RDVENTRICLE", "4THVENTRICLE", "ACA", "ANTCOMMA", "BASILARA", "BRAIN", "CEREBELLUM", "CEREBHEMISPHERE",
     "CEREBRALA", "CHOROIDPLEXUS", "CIRCLEOFWILLIS", "EAC", "EAR", "EYE", "FONTANEL", "HEAD", "HEADNECK", "IAC",
     "INTRACRANIAL", "LATVENTRICLE", "MASTOID", "MCA", "OPHTHALMICA", "OPTICCANAL", "ORBIT", "PCA", "POSCOMMA",
     "SCALP", "SELLA", "SKULL", "THALAMUS"],
)  # fmt: skip
def test_the_terms_of_the_head_are_spelled_as_the_standard_spells_them(term: str) -> None:
    assert term in BRAIN_TERMS
    assert shows_brain([term])


@pytest.mark.parametrize("term", ["FACE", "JAW", "TMJ", "NECK", "SPINALCORD", "CSPINE", "CAROTID", "WHOLEBODY"])
def test_a_term_beside_the_skull_shows_no_brain(term: str) -> None:
    assert not shows_brain([term])


def test_the_codes_of_the_terms_are_those_of_the_standard() -> None:
    """pydicom has the codes of CID 4 with their meanings, and those of SNOMED RT for each of SNOMED CT."""
    meanings = {code: meaning for named in concepts["SCT"].values() for code, (meaning, _) in named.items()}
    rt = mapping["SCT"]
    coded = [code for code in meanings if part_of_code(code, "") in BRAIN_TERMS]
    assert len(coded) > 20
    for code in coded:
        if code in rt:
            assert part_of_code(rt[code], "") == part_of_code(code, ""), meanings[code]
    assert part_of_code("T-D14AE", "") == part_of_code("T-D1480", "") == "ORBIT"
    assert shows_brain([part_of_code("66720007", "Seitenventrikel")])
