"""A destination that is a FHIR R4 server: a report as a transaction of conditional updates, and what its answer means.

A resource of ours replaces the one with the same identifier, so that what is sent again is there once: FHIR R4
3.1.0.4.3, 3.1.0.11.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import requests
from pydicom import Dataset

from worker import dicom
from worker.config import FhirSection
from worker.errors import Park, Retry
from worker.fhir import report_as_bundle
from worker.outbound import http
from worker.outbound.c_store import Rejected

_MEDIA_TYPE = "application/fhir+json"


@dataclass(frozen=True, slots=True)
class FhirServer:
    """A connection over which reports are sent."""

    destination: FhirSection
    session: http.Session

    def store(self, ds: Dataset) -> tuple[int, str]:
        """One report; success and its SOP Instance UID.

        Raises Rejected, Retry for a fault that passes, Park for an object that is no report.
        """
        try:
            bundle = report_as_bundle(ds, transaction=True)
        except ValueError:
            raise Park("not-a-report", "only reports are sent to a FHIR server") from None
        headers = {"Content-Type": _MEDIA_TYPE, "Prefer": "return=minimal"}
        _judge(self._ask("POST", self.destination.url, data=bundle.encode(), headers=headers))
        return dicom.SUCCESS, str(ds.SOPInstanceUID)

    def probe(self) -> None:
        """Read its capabilities. Raises Retry when the server does not answer as one of FHIR R4."""
        response = self._ask("GET", f"{self.destination.url}/metadata")
        http.raise_for_access(response)
        told = _resource(response)
        if response.status_code != HTTPStatus.OK or told.get("resourceType") != "CapabilityStatement":
            raise Retry("not-fhir", f"{self.destination.name} answers HTTP {http.shown(response)}, but not as FHIR")
        if not str(told.get("fhirVersion", "")).startswith("4."):
            raise Retry("not-fhir", f"{self.destination.name} speaks another version of FHIR than R4")

    def close(self) -> None:
        self.session.close()

    def _ask(self, method: str, url: str, **arguments: Any) -> requests.Response:
        try:
            return self.session.request(method, url, timeout=self.destination.timeout_seconds, **arguments)
        except requests.RequestException as error:
            raise http.no_answer(self.destination, error) from None


def connect(destination: FhirSection) -> FhirServer:
    """Ready to send; nothing is sent yet. Raises Retry when the token cannot be read, StartError for TLS files."""
    return FhirServer(destination, http.connect(destination, _MEDIA_TYPE))


def _judge(response: requests.Response) -> None:
    """A transaction succeeds or fails as a whole (FHIR R4 3.1.0.11.2); stored is what the answer says so of."""
    http.raise_for_access(response)
    if response.status_code in http.PASSING:
        raise Retry("peer-unavailable", f"the peer answered HTTP {http.shown(response)}")
    if response.status_code != HTTPStatus.OK:
        raise Rejected(None, "rejected", f"the peer answered HTTP {http.shown(response)}")
    answer = _resource(response)
    if answer.get("resourceType") != "Bundle" or answer.get("type") != "transaction-response":
        raise Retry("not-confirmed", "the peer answered HTTP 200, but not that it stored the resources")


def _resource(response: requests.Response) -> dict[str, Any]:
    """The resource in an answer, empty where there is none."""
    try:
        read = response.json()
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}
