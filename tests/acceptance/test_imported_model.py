"""A classifier of MONAI's tutorial, imported and served: its own classes and codes arrive in the PACS."""

from __future__ import annotations

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread

from tests.testbed import pacs, site, tutorial
from tests.testbed.waiting import patience, wait_until


def _codes(report: Dataset) -> set[tuple[str, str]]:
    """(name, value) of every coded item of the report, by their meanings."""
    return {
        (str(item.ConceptNameCodeSequence[0].CodeMeaning), str(item.ConceptCodeSequence[0].CodeMeaning))
        for element in report.iterall()
        if element.keyword == "ContentSequence"
        for item in element.value
        if item.get("ValueType") == "CODE"
    }


def test_an_imported_model_classifies_a_folder_and_reports_to_the_pacs(tmp_path: Path) -> None:
    made = tutorial.make(tmp_path / "made")
    bundle = tmp_path / "bundle"
    arguments = ["import", str(made.checkpoint), "--model", str(made.model), "--dicom", str(made.dicom)]
    imported = subprocess.run(
        [sys.executable, "-m", "monai_train", *arguments, "--out", str(bundle)],
        capture_output=True, text=True, timeout=patience(120),
    )  # fmt: skip
    assert imported.returncode == 0, imported.stderr
    with site.running(tmp_path / "clinic", settings={"worker": {"bundle": str(bundle)}}) as clinic:
        done = clinic.worker.run("classify", str(made.dicom), "--out", str(tmp_path / "out"), "--format", "json")
        assert done.returncode == 0, done.stderr
        labels = {item["series_instance_uid"]: item["label"] for item in json.loads(done.stdout)}
        assert sorted(labels.values()) == sorted(3 * list(tutorial.KINDS))
        source = None
        for kind in ("top", "none"):
            source = clinic.push(tutorial.write_series(tmp_path / "new" / kind, kind, 6, seed=11))
            [content] = wait_until(
                lambda uid=source.StudyInstanceUID: clinic.pacs.files(pacs.REPORTS, uid), "the report"
            ).values()
            codes = _codes(dcmread(BytesIO(content)))
            if kind == "top":
                assert {("Finding", "Hemorrhage"), ("Lesion", "Present"), ("Finding Site", "Brain")} <= codes
            else:
                assert ("Lesion", "Absent") in codes
            assert "Neoplasm" not in {name for name, _ in codes}
        clinic.worker.require_alive()
