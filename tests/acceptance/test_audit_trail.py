"""What a hospital finds in the audit trail of the service."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import httpx

from tests.testbed import dcmtk
from tests.testbed.site import Site, header
from tests.testbed.waiting import wait_until


def _events(site: Site, since: int) -> list[tuple[str, ElementTree.Element]]:
    """Name and message of each record behind the given number."""
    files = sorted((site.worker.folder / "var" / "audit").glob("*.audit"))
    lines = [line.split(" ", 2)[2] for file in files for line in file.read_text().splitlines()]
    found = [ElementTree.fromstring(line) for line in lines[since:]]
    return [(": ".join(code.get("originalText", "") for code in one[0] if code.get("csd-code")), one) for one in found]


def test_who_sent_what_went_back_and_who_asked_in_vain_are_on_record(hospital: Site, head: list[Path]) -> None:
    before = len(_events(hospital, 0))
    started = [name for name, _ in _events(hospital, 0)]
    assert started.count("Application Activity: Application Start") >= 4
    source = header(head[0])
    dcmtk.storescu(hospital.worker.port, head, calling="SCANNER_7")
    hospital.answer(source)
    assert httpx.get(f"http://127.0.0.1:{hospital.worker.web_port}/api/v1/results").status_code == 401

    def transfers() -> list[ElementTree.Element] | None:
        named = [one for name, one in _events(hospital, before) if name == "DICOM Instances Transferred"]
        ours = [one for one in named if one.find("ParticipantObjectIdentification").get("ParticipantObjectID") == study]
        directions = {one.find("EventIdentification").get("EventActionCode") for one in ours}
        return ours if directions == {"C", "R"} else None

    study = source.StudyInstanceUID
    found = wait_until(transfers, "the transfers to be on record")
    came = next(one for one in found if one.find("EventIdentification").get("EventActionCode") == "C")
    assert came.find("ActiveParticipant").get("UserID") == "SCANNER_7"
    assert came.find(".//SOPClass").get("NumberOfInstances") == str(len(head))
    refused = [one for name, one in _events(hospital, before) if name == "User Authentication: Login"]
    assert [one.findtext("EventIdentification/EventOutcomeDescription") for one in refused] == ["token missing"]
    whole = "".join(ElementTree.tostring(one, encoding="unicode") for _, one in _events(hospital, 0))
    assert source.PatientID not in whole
    assert str(source.PatientName) not in whole

    verified = hospital.worker.run("audit", "verify", "--format", "json")
    assert verified.returncode == 0, verified.stderr
    [trail] = json.loads(verified.stdout)
    assert trail["fault"] is None
    assert trail["records"] > before
