"""The coded classes are the network's, in its order, each with what a report needs."""

from __future__ import annotations

from pathlib import Path

from monai_train.data.labels import CLASS_NAMES, NO_TUMOUR
from monai_train.export.coded_classes import CLASSES
from worker.inference.bundle import load_bundle


def test_classes_are_those_of_the_network_in_its_order() -> None:
    assert tuple(coded["name"] for coded in CLASSES) == CLASS_NAMES
    assert [coded["neoplasm"] for coded in CLASSES] == [index != NO_TUMOUR for index in range(len(CLASSES))]


def test_every_neoplasm_has_a_finding_and_every_class_a_site_in_snomed_ct() -> None:
    for coded in CLASSES:
        assert coded["site"]["scheme"] == "SCT"
        assert (coded["finding"] is not None) == coded["neoplasm"]
        if coded["finding"] is not None:
            assert coded["finding"]["scheme"] == "SCT"
            assert coded["finding"]["value"].isdigit()
    findings = [coded["finding"]["value"] for coded in CLASSES if coded["finding"]]
    assert len(set(findings)) == len(findings)


def test_the_worker_reads_them_back(exported: Path) -> None:
    read = load_bundle(exported).identity.classes
    assert [(coded.name, coded.title, coded.neoplasm) for coded in read] == [
        (coded["name"], coded["title"], coded["neoplasm"]) for coded in CLASSES
    ]
