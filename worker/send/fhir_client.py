"""A destination that is a FHIR R4 server: a report as a transaction of conditional updates, and what its answer means.

A resource of ours replaces the one with the same identifier, so that what is sent again is there once, and a revised
report instead of the one before: FHIR R4 3.1.0.4.3, 3.1.0.11. One that comes late, after its revision, is not sent.
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
from worker.reporting.fhir import issued, report_as_bundle, same_report
from worker.send import http
from worker.send.destinations.base import HttpDestination, Rejected

_MEDIA_TYPE = "application/fhir+json"


@dataclass(frozen=True, slots=True)
class FhirServer:
    """A connection over which reports are sent."""

    destination: HttpDestination
    session: http.Session

    def store(self, ds: Dataset) -> tuple[int, str]:
        """One report; success and its SOP Instance UID. Success too where a revision of it is there already.

        Raises Rejected, Retry for a fault that passes, Park for an object that is no report.
        """
        try:
            bundle = report_as_bundle(ds, transaction=True)
        except ValueError:
            raise Park("not-a-report", "only reports are sent to a FHIR server") from None
        if not self._has_later(ds):
            headers = {"Content-Type": _MEDIA_TYPE, "Prefer": "return=minimal"}
            _judge(self._ask("POST", self.destination.url, data=bundle.encode(), headers=headers))
        return standard.SUCCESS, str(ds.SOPInstanceUID)

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

    def _has_later(self, ds: Dataset) -> bool:
        """Whether the server's report on this series was made after this one. Raises Retry where it does not say."""
        response = self._ask("GET", f"{self.destination.url}/{same_report(ds)}")
        _require_ok(response)
        found = _resource(response)
        if found.get("resourceType") != "Bundle":
            raise Retry("not-confirmed", "the peer answered HTTP 200, but not which report on this series it has")
        try:
            reports = [entry["resource"] for entry in found.get("entry", [])]
            times = [one["issued"] for one in reports if one["resourceType"] == "DiagnosticReport"]
            return any(datetime.fromisoformat(one) > issued(ds) for one in times)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise Retry("not-confirmed", "the peer's report on this series cannot be read") from None

    def _ask(self, method: str, url: str, **arguments: Any) -> requests.Response:
        try:
            return self.session.request(method, url, timeout=self.destination.timeout_seconds, **arguments)
        except requests.RequestException as error:
            raise http.no_answer(self.destination, error) from None


def connect(destination: HttpDestination) -> FhirServer:
    """Ready to send; nothing is sent yet. Raises Retry when the token cannot be read, StartError for TLS files."""
    return FhirServer(destination, http.connect(destination, _MEDIA_TYPE))


def _judge(response: requests.Response) -> None:
    """A transaction succeeds or fails as a whole (FHIR R4 3.1.0.11.2); stored is what the answer says so of."""
    _require_ok(response)
    answer = _resource(response)
    if answer.get("resourceType") != "Bundle" or answer.get("type") != "transaction-response":
        raise Retry("not-confirmed", "the peer answered HTTP 200, but not that it stored the resources")


def _require_ok(response: requests.Response) -> None:
    http.raise_for_access(response)
    if response.status_code in http.PASSING:
        raise Retry("peer-unavailable", f"the peer answered HTTP {http.shown(response)}")
    if response.status_code != HTTPStatus.OK:
        raise Rejected(None, "rejected", f"the peer answered HTTP {http.shown(response)}")


def _resource(response: requests.Response) -> dict[str, Any]:
    """The resource in an answer, empty where there is none."""
    try:
        read = response.json()
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}
