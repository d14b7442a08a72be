"""Reports to a FHIR R4 server: a transaction of conditional updates, and what the answers mean.

A conditional update replaces the resource with the same identifier (FHIR R4 3.1.0.4.3, 3.1.0.11): a report that is sent
twice is stored once, and a revised report replaces the earlier report. A report whose revision is stored is not sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any

import requests
from pydicom import Dataset

from worker.dicom import standard
from worker.errors import Park, Retry
from worker.reporting.fhir_resources import issued, report_as_bundle, same_report
from worker.send import http
from worker.send.destinations.base import HttpDestination, Rejected

_MEDIA_TYPE = "application/fhir+json"


@dataclass(frozen=True, slots=True)
class FhirServer:
    """A connection to a FHIR server over which reports are stored."""

    destination: HttpDestination
    session: http.Session

    def store(self, ds: Dataset) -> tuple[int, str]:
        """Store a report, unless the server has a revision of it; success and its SOP Instance UID.

        Raises Rejected; Retry for a temporary fault; Park for an object that is not a report.
        """
        try:
            bundle = report_as_bundle(ds, transaction=True)
        except ValueError:
            raise Park("not-a-report", "only reports are sent to a FHIR server") from None
        if not self._has_later(ds):
            headers = {"Content-Type": _MEDIA_TYPE, "Prefer": "return=minimal"}
            _require_stored(self._request("POST", self.destination.url, data=bundle.encode(), headers=headers))
        return standard.SUCCESS, str(ds.SOPInstanceUID)

    def probe(self) -> None:
        """Read the CapabilityStatement. Raises Retry when the server does not speak FHIR R4."""
        response = self._request("GET", f"{self.destination.url}/metadata")
        http.raise_for_access(response)
        capabilities = _resource(response)
        if response.status_code != HTTPStatus.OK or capabilities.get("resourceType") != "CapabilityStatement":
            raise Retry(
                "not-fhir", f"{self.destination.name} answers HTTP {http.status_line(response)}, but not as FHIR"
            )
        if not str(capabilities.get("fhirVersion", "")).startswith("4."):
            raise Retry("not-fhir", f"{self.destination.name} does not speak FHIR R4 but another version")

    def close(self) -> None:
        self.session.close()

    def _has_later(self, ds: Dataset) -> bool:
        """Whether the server has a later report on this series. Raises Retry when its answer cannot be read."""
        response = self._request("GET", f"{self.destination.url}/{same_report(ds)}")
        _require_ok(response)
        bundle = _resource(response)
        if bundle.get("resourceType") != "Bundle":
            raise Retry("not-confirmed", "the peer answered HTTP 200, but not which report on this series it has")
        try:
            reports = [entry["resource"] for entry in bundle.get("entry", [])]
            times = [report["issued"] for report in reports if report["resourceType"] == "DiagnosticReport"]
            return any(datetime.fromisoformat(time) > issued(ds) for time in times)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise Retry("not-confirmed", "the peer's report on this series cannot be read") from None

    def _request(self, method: str, url: str, **arguments: Any) -> requests.Response:
        try:
            return self.session.request(method, url, timeout=self.destination.timeout_seconds, **arguments)
        except requests.RequestException as error:
            raise http.unanswered(self.destination, error) from None


def connect(destination: HttpDestination) -> FhirServer:
    """Prepare a connection; sends nothing. Raises Retry for an unreadable token, StartError for unusable TLS files."""
    return FhirServer(destination, http.connect(destination, _MEDIA_TYPE))


def _require_stored(response: requests.Response) -> None:
    """Check the answer to a transaction, which succeeds or fails as a whole (FHIR R4 3.1.0.11.2).

    Raises Retry or Rejected.
    """
    _require_ok(response)
    answer = _resource(response)
    if answer.get("resourceType") != "Bundle" or answer.get("type") != "transaction-response":
        raise Retry("not-confirmed", "the peer answered HTTP 200, but not that it stored the resources")


def _require_ok(response: requests.Response) -> None:
    """Raise Retry for a temporary fault and Rejected for every other status but 200."""
    http.raise_for_access(response)
    if response.status_code in http.TEMPORARY:
        raise Retry("peer-unavailable", f"the peer answered HTTP {http.status_explained(response)}")
    if response.status_code != HTTPStatus.OK:
        raise Rejected(None, "rejected", f"the peer answered HTTP {http.status_explained(response)}")


def _resource(response: requests.Response) -> dict[str, Any]:
    """The resource in an answer; empty where there is none."""
    try:
        content = response.json()
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
