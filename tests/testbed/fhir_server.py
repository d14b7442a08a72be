"""A stand-in FHIR R4 server in this process: search by identifier, transactions of conditional updates (3.1.0.11)."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs

from fhir.resources.R4B.bundle import Bundle
from jsonschema_rs import validator_for

Resource = dict[str, Any]


class FhirServer:
    """At http://127.0.0.1:`port`/fhir, kept in memory. `status` and `payload` answer instead, `token` must be shown.

    `schema`: HL7's JSON schema, which what comes has to fit. `readable`: whether resources may be read by their ids.
    """

    def __init__(self, schema: Path | None = None) -> None:
        self._validator = None if schema is None else validator_for(json.loads(schema.read_text("utf-8")))
        self.status: int | None = None
        self.readable = True
        self.payload = b""
        self.token: str | None = None
        self.version = "4.0.1"
        self.resources: dict[str, Resource] = {}
        self.updates = 0
        server = self

        class Handler(_Handler):
            fhir = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/fhir"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def of_type(self, name: str) -> list[Resource]:
        return [one for one in self.resources.values() if one["resourceType"] == name]

    def found(self, kind: str, condition: str) -> dict[str, Resource]:
        return {place: one for place, one in self.resources.items() if _has(one, kind, condition)}

    def transact(self, body: bytes) -> Resource:
        """Store a transaction, all of it. Raises ValueError for one that is not valid, or refers to nothing."""
        Bundle.model_validate_json(body)
        bundle = json.loads(body)
        if self._validator is not None:
            self._validator.validate(bundle)
        if bundle["type"] != "transaction":
            raise ValueError("not a transaction")
        places: dict[str, str] = {}
        outcomes = []
        for entry in bundle["entry"]:
            if entry["request"]["method"] != "PUT":
                raise ValueError("only updates are tested")
            kind, _, condition = entry["request"]["url"].partition("?")
            found = list(self.found(kind, condition))
            if len(found) > 1 or not _has(entry["resource"], kind, condition):
                raise ValueError("the condition is not selective")
            places[entry["fullUrl"]] = found[0] if found else f"{kind}/{len(self.resources) + len(places) + 1}"
            outcomes.append("200 OK" if found else "201 Created")
        stored = {places[one["fullUrl"]]: _resolved(one["resource"], places) for one in bundle["entry"]}
        self.resources |= stored
        self.updates += 1
        entries = [{"response": {"status": one}} for one in outcomes]
        return {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}


def _has(resource: Resource, kind: str, condition: str) -> bool:
    [wanted] = parse_qs(condition, strict_parsing=True)["identifier"]
    system, _, value = wanted.partition("|")
    return resource["resourceType"] == kind and {"system": system, "value": value} in resource["identifier"]


def _resolved(resource: Any, places: dict[str, str]) -> Any:
    """With each reference to an entry as one to where it is. Raises KeyError for one that leads nowhere.

    One to a contained resource stays as it is.
    """
    if isinstance(resource, list):
        return [_resolved(one, places) for one in resource]
    if not isinstance(resource, dict):
        return resource
    return {
        key: places[value] if key == "reference" and not value.startswith("#") else _resolved(value, places)
        for key, value in resource.items()
    }


class _Handler(BaseHTTPRequestHandler):
    fhir: FhirServer

    def do_GET(self) -> None:
        path, _, condition = self.path.partition("?")
        if path == "/fhir/metadata":
            answer: Resource = {"resourceType": "CapabilityStatement", "fhirVersion": self.fhir.version}
        elif path == "/fhir/DiagnosticReport" and condition:
            entries = [{"resource": one} for one in self.fhir.found("DiagnosticReport", condition).values()]
            answer = {"resourceType": "Bundle", "type": "searchset", "total": len(entries), "entry": entries}
        elif (place := path.removeprefix("/fhir/")) in self.fhir.resources:
            if not self.fhir.readable:
                self._answer(403, b"")
                return
            answer = self.fhir.resources[place]
        else:
            self._answer(404, b"")
            return
        self._answer(200, json.dumps(answer).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/fhir" or self.headers["Content-Type"] != "application/fhir+json":
            self._answer(404, b"")
            return
        try:
            self._answer(200, json.dumps(self.fhir.transact(body)).encode() if self.fhir.status is None else b"")
        except (ValueError, KeyError):
            self._answer(422, b"")

    def _answer(self, status: int, payload: bytes) -> None:
        server = self.fhir
        if server.token is not None and self.headers.get("Authorization") != f"Bearer {server.token}":
            status, payload = 401, b""
        elif server.status is not None:
            status, payload = server.status, server.payload
        self.send_response(status)
        self.send_header("Content-Type", "application/fhir+json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: a test's output is its assertions."""
