"""Reports to a FHIR R4 server: a transaction of conditional updates, and what the answers mean.

A conditional update replaces the resource with the same identifier (FHIR R4 3.1.0.4.3, 3.1.0.11): a report that is sent
twice is stored once, and a revised report replaces the earlier report. A report whose revision is stored is not sent.
Observations of a study's earlier report that its revision lacks are marked entered-in-error in the same transaction.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
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
_UNREADABLE = "the peer's report on this series cannot be read"
_OBSERVATION = re.compile(
    r"(?:^|/)Observation/([A-Za-z0-9\-.]{1,64})(?:/_history/|$)"
)  # R4 2.3.0.1: a literal reference


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
        stored = self._stored(ds)
        if not _has_later(stored, ds):
            if left := self._left(stored, json.loads(bundle)):
                bundle = report_as_bundle(ds, transaction=True, left=left)
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

    def _stored(self, ds: Dataset) -> list[dict[str, Any]]:
        """The server's reports on this series or study. Raises Retry when its answer cannot be read."""
        response = self._request("GET", f"{self.destination.url}/{same_report(ds)}")
        _require_ok(response)
        bundle = _resource(response)
        if bundle.get("resourceType") != "Bundle":
            raise Retry("not-confirmed", "the peer answered HTTP 200, but not which report on this series it has")
        try:
            resources = [entry["resource"] for entry in bundle.get("entry", [])]
            return [resource for resource in resources if resource["resourceType"] == "DiagnosticReport"]
        except (AttributeError, KeyError, TypeError):
            raise Retry("not-confirmed", _UNREADABLE) from None

    def _left(self, stored: Sequence[dict[str, Any]], bundle: dict[str, Any]) -> list[dict[str, Any]]:
        """The identifiers of stored Observations of an earlier report that the new lacks: series left the study."""
        kept = [identifier for entry in bundle["entry"] for identifier in entry["resource"]["identifier"]]
        left = []
        try:
            references = [str(item["reference"]) for report in stored for item in report.get("result", [])]
            for number in dict.fromkeys(found[1] for item in references if (found := _OBSERVATION.search(item))):
                response = self._request("GET", f"{self.destination.url}/Observation/{number}")
                if response.status_code in http.TEMPORARY:
                    _require_ok(response)
                if response.status_code != HTTPStatus.OK:
                    continue  # deleted, or we may not read it: no reason to withhold the revised report
                identifiers = _resource(response).get("identifier", [])
                if identifiers and not any(identifier in kept for identifier in identifiers):
                    left.append({name: str(identifiers[0][name]) for name in ("system", "value")})
        except (AttributeError, KeyError, TypeError):
            raise Retry("not-confirmed", _UNREADABLE) from None
        return left

    def _request(self, method: str, url: str, **arguments: Any) -> requests.Response:
        try:
            return self.session.request(method, url, timeout=self.destination.timeout_seconds, **arguments)
        except requests.RequestException as error:
            raise http.unanswered(self.destination, error) from None


def connect(destination: HttpDestination) -> FhirServer:
    """Prepare a connection; sends nothing. Raises Retry for an unreadable token, StartError for unusable TLS files."""
    return FhirServer(destination, http.connect(destination, _MEDIA_TYPE))


def _has_later(stored: Sequence[dict[str, Any]], ds: Dataset) -> bool:
    """Whether one of the server's reports is later than this. Raises Retry for a report that cannot be read."""
    try:
        return any(datetime.fromisoformat(report["issued"]) > issued(ds) for report in stored)
    except (KeyError, TypeError, ValueError):
        raise Retry("not-confirmed", _UNREADABLE) from None


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
