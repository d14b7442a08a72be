from __future__ import annotations

import pytest

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
