"""Our FHIR resources before validators that have nothing in common with the library they are built with.

HL7's JSON schema of FHIR 4.0.1, and the program `fhir` (npm), which has R4's structures and value sets. Skipped where
they are not installed (`make fhir-validators`; another folder by FHIR_VALIDATORS=...).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from tests.testbed import results
from tests.testbed.waiting import patience
from worker.reporting.fhir_resources import report_as_bundle
from worker.reporting.sr import build_report
from worker.reporting.study_sr import build_study_report

jsonschema_rs = pytest.importorskip("jsonschema_rs", reason="jsonschema-rs is not installed")

INSTALLED = Path(os.environ.get("FHIR_VALIDATORS", Path(__file__).parents[2] / "var" / "fhir")).resolve()
NODE = shutil.which("node")
SOURCES = results.source_headers()
BARE = results.source_headers(PatientID=None, AccessionNumber=None, StudyDate="soon")
ODD = results.source_headers(PatientID=" Ä ^ß\\1 ", AccessionNumber=" 7 ", IssuerOfPatientID="Ward <7>")
# Prints, for each resource read, what the validator says beyond advice: in strict mode, for a member that R4 lacks too.
PROGRAM = """
const {Fhir} = require(process.argv[1]);
const validator = new Fhir();
const judged = JSON.parse(require('fs').readFileSync(0)).map((one) => {
    const {valid, messages} = validator.validate(one, {errorOnUnexpected: true});
    return [valid, ...messages.filter((message) => message.severity === 'error' || message.severity === 'fatal')];
});
console.log(JSON.stringify(judged));
"""

pytestmark = pytest.mark.skipif(
    not (INSTALLED / "fhir.schema.json").is_file(), reason="no FHIR validators: make fhir-validators"
)


@pytest.fixture(scope="module")
def bundles() -> list[dict[str, Any]]:
    """What is shown and what is sent, of every outcome of series and studies and of sources that say odd things."""
    reports = [
        build_study_report(study, results.MODEL, source, results.STUDY_IDENTITY)
        for study, source in zip(results.STUDIES.values(), cycle([SOURCES[0], BARE[0], ODD[0]]), strict=False)
    ]
    reports += [
        build_report(result(sources), results.MODEL, sources, **results.ARGUMENTS)
        for sources in (SOURCES, BARE, ODD)
        for result in (results.classified, results.not_assessed)
    ]
    return [json.loads(report_as_bundle(one, transaction=sent)) for one in reports for sent in (False, True)]


def _spoilt(bundle: dict[str, Any]) -> list[dict[str, Any]]:
    """A code that its value set lacks, a member that R4 lacks, and nothing where something must be."""
    wrong = [json.loads(json.dumps(bundle["entry"][0]["resource"])) for _ in range(3)]
    wrong[0]["status"] = "unverified"
    wrong[1]["verdict"] = "glioma"
    del wrong[2]["code"]
    return wrong


def test_they_fit_the_schema_of_hl7(bundles: list[dict[str, Any]]) -> None:
    schema = json.loads((INSTALLED / "fhir.schema.json").read_text("utf-8"))
    assert schema["id"] == "http://hl7.org/fhir/json-schema/4.0"
    validator = jsonschema_rs.validator_for(schema)
    assert [validator.is_valid(one) for one in bundles] == [True] * (12 + 2 * len(results.STUDIES))
    assert [validator.is_valid(one) for one in _spoilt(bundles[0])] == [False] * 3


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_they_fit_the_structures_and_value_sets_of_r4(bundles: list[dict[str, Any]]) -> None:
    resources = [entry["resource"] for bundle in bundles for entry in bundle["entry"]]
    asked = json.dumps([*bundles, *resources, *_spoilt(bundles[0])])
    command = [str(NODE), "-e", PROGRAM, str(INSTALLED / "fhir.js")]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=patience(120))
    assert done.returncode == 0, done.stderr
    *good, status, member, code = json.loads(done.stdout)
    assert good == [[True]] * (len(bundles) + len(resources))
    assert [one[0] for one in (status, member, code)] == [False] * 3
