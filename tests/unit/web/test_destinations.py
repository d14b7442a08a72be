from __future__ import annotations

from dataclasses import replace

import pytest
from fastapi import HTTPException

from tests.testbed.dicomweb import DicomwebServer
from worker.config.settings import Settings
from worker.send.destinations.c_store import CStoreDestination
from worker.send.destinations.stow import StowDestination
from worker.web.dependencies import Site
from worker.web.destinations import DestinationAnswer, describe_destinations, echo, require_destination


def _with(site: Site, *destinations: CStoreDestination | StowDestination) -> Site:
    return replace(site, settings=Settings(worker=site.settings.worker, destination=destinations))


def test_each_kind_is_described_by_its_address(site: Site) -> None:
    archive = StowDestination(name="archive", url="http://127.0.0.1:9/dicom-web")
    pacs = CStoreDestination(name="pacs", ae_title="PACS", host="127.0.0.1", port=4242)
    assert describe_destinations(_with(site, pacs, archive)) == (
        DestinationAnswer("pacs", "DICOM", "PACS", "127.0.0.1:4242"),
        DestinationAnswer("archive", "DICOMweb", None, "http://127.0.0.1:9/dicom-web"),
    )


def test_an_unknown_destination_is_404(site: Site) -> None:
    assert require_destination(site, "pacs").name == "pacs"
    with pytest.raises(HTTPException) as fault:
        require_destination(site, "nobody")
    assert fault.value.status_code == 404


def test_an_echo_reports_the_time_or_the_fault(site: Site) -> None:
    unreachable = echo(site, require_destination(site, "pacs"))
    assert (unreachable.answers, unreachable.reason) == (False, "peer-unavailable")
    assert unreachable.detail
    with DicomwebServer() as server:
        answer = echo(site, StowDestination(name="archive", url=server.url))
    assert (answer.answers, answer.reason, answer.detail) == (True, None, None)
    assert answer.milliseconds >= 0
