"""Every class of a run gets what a report needs: a code of its own, or a clear error."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_train.data.labels import KNOWN_CLASSES, Classes
from monai_train.export.coded_classes import coded_classes
from tests.testbed.converted import CLASSES
from worker.errors import StartError
from worker.inference.bundle import load_bundle

ABSCESS = """
[abscess]
title = "Brain abscess"
neoplasm = false
finding = {value = "441806004", scheme = "SCT", meaning = "Abscess of brain"}
site = {value = "12738006", scheme = "SCT", meaning = "Brain"}
"""


def test_known_classes_need_no_file_and_have_codes_of_their_own() -> None:
    coded = coded_classes(Classes.named(KNOWN_CLASSES))
    assert [one["name"] for one in coded] == list(KNOWN_CLASSES)
    assert [one["neoplasm"] for one in coded] == [True, True, True, False, False]
    assert all(one["site"]["scheme"] == "SCT" for one in coded)
    findings = [one["finding"]["value"] for one in coded if one["finding"]]
    assert len(set(findings)) == len(findings) == 4
    assert all(finding.isdigit() for finding in findings)
    assert coded[-1]["finding"] is None


def test_concepts_of_other_classes_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "concepts.toml"
    file.write_text(ABSCESS)
    coded = coded_classes(Classes.of(["abscess", "glioma"]), file)
    assert [one["name"] for one in coded] == ["glioma", "notumor", "abscess"]
    assert coded[2]["finding"] == {"value": "441806004", "scheme": "SCT", "meaning": "Abscess of brain"}


def test_class_without_a_concept_is_named() -> None:
    with pytest.raises(StartError, match="class abscess has no coded concept: give it in a file by --concepts"):
        coded_classes(Classes.of(["abscess", "glioma"]))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("[abscess", "is not TOML"),
        (ABSCESS.replace('title = "Brain abscess"', ""), "title: Field required"),
        (ABSCESS.replace("441806004", "44180600444180600"), "finding.value: String should have at most 16"),
        (ABSCESS.replace("neoplasm", "kind"), "neoplasm: Field required"),
        ("\n".join(line for line in ABSCESS.splitlines() if "finding" not in line), "class abscess needs a finding"),
        (ABSCESS + ABSCESS.replace("[abscess]", "[notumor]"), "class notumor must not have a finding"),
        ('abscess = "x"', "abscess"),
    ],
)
def test_file_that_cannot_be_used_is_refused(tmp_path: Path, content: str, fault: str) -> None:
    file = tmp_path / "concepts.toml"
    file.write_text(content)
    with pytest.raises(StartError) as caught:
        coded_classes(Classes.of(["abscess", "glioma"]), file)
    assert fault in caught.value.detail
    with pytest.raises(StartError, match="cannot read"):
        coded_classes(CLASSES, tmp_path / "missing.toml")


def test_a_class_that_a_bundle_of_format_one_cannot_hold_is_named(tmp_path: Path) -> None:
    file = tmp_path / "concepts.toml"
    file.write_text(ABSCESS)
    with pytest.raises(StartError, match=r"class abscess has neoplasm = false, .* set neoplasm = true in the file"):
        coded_classes(Classes.of(["abscess", "glioma"]), file, neoplasms_only=True)
    file.write_text(ABSCESS.replace("false", "true"))
    assert coded_classes(Classes.of(["abscess", "glioma"]), file, neoplasms_only=True)[2]["neoplasm"]
    healthy = 'title = "Healthy"\nneoplasm = true\nsite = {value = "12738006", scheme = "SCT", meaning = "Brain"}\n'
    file.write_text(f"{ABSCESS}[notumor]\n{healthy}")
    with pytest.raises(StartError, match="class notumor needs neoplasm = false"):
        coded_classes(Classes.of(["abscess", "glioma"]), file)


def test_the_worker_reads_them_back(exported: Path) -> None:
    read = load_bundle(exported).identity.classes
    assert [(coded.name, coded.title, coded.neoplasm) for coded in read] == [
        (coded["name"], coded["title"], coded["neoplasm"]) for coded in coded_classes(CLASSES)
    ]
