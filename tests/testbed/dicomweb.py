"""A stand-in DICOMweb server in this process, for what Orthanc will not do on request: refuse, redirect, be silent."""

from __future__ import annotations

import json
import ssl
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, Self

from pydicom import Dataset, dcmread

_REFERENCED, _FAILED = "00081199", "00081198"


class DicomwebServer:
    """Store Instances at http(s)://127.0.0.1:`port`/dicom-web, kept in memory.

    Set before an answer is wanted: `status` and `payload` (with `media_type`) answer instead of storing,
    `failure_reason` refuses every object with it, `refused_class` every one of that SOP class (0x0122), `token` is
    the bearer token to show, `location` redirects, `silent` answers only once it is cleared again.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.status: int | None = None
        self.payload = b""
        self.media_type = "application/dicom+json"
        self.failure_reason: int | None = None
        self.warning_reason: int | None = None
        self.refused_class: str | None = None
        self.token: str | None = None
        self.location: str | None = None
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.stored: dict[str, Dataset] = {}
        self.receipts: Counter[str] = Counter()
        self.hosts: list[str] = []
        server = self

        class Handler(_Handler):
            dicomweb = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.port: int = self._http.server_address[1]
        self._scheme = "http" if context is None else "https"
        if context is not None:
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}/dicom-web"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.goes_on.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def keep(self, ds: Dataset) -> tuple[int, bytes]:
        """What to answer to one object: PS3.18 10.5.3."""
        reference: dict[str, Any] = {
            "00081150": {"vr": "UI", "Value": [ds.SOPClassUID]},
            "00081155": {"vr": "UI", "Value": [ds.SOPInstanceUID]},
        }
        reason = self.failure_reason
        if ds.SOPClassUID == self.refused_class:
            reason = 0x0122
        if reason is not None:
            reference["00081197"] = {"vr": "US", "Value": [reason]}
            return 409, json.dumps({_FAILED: {"vr": "SQ", "Value": [reference]}}).encode()
        self.stored[ds.SOPInstanceUID] = ds
        self.receipts[ds.SOPInstanceUID] += 1
        if self.warning_reason is not None:
            reference["00081196"] = {"vr": "US", "Value": [self.warning_reason]}
        answer = {_REFERENCED: {"vr": "SQ", "Value": [reference]}}
        return 200 if self.warning_reason is None else 202, json.dumps(answer).encode()


class _Handler(BaseHTTPRequestHandler):
    dicomweb: DicomwebServer

    def do_GET(self) -> None:
        server = self.dicomweb
        if server.token is not None and self.headers.get("Authorization") != f"Bearer {server.token}":
            self._answer(401, b"")
        else:
            self._answer(server.status or 200, server.payload if server.status else b"[]")

    def do_POST(self) -> None:
        server = self.dicomweb
        server.hosts.append(self.headers.get("Host", ""))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.goes_on.wait()
        if server.token is not None and self.headers.get("Authorization") != f"Bearer {server.token}":
            self._answer(401, b"")
        elif server.location is not None:
            self._answer(302, b"")
        elif server.status is not None:
            self._answer(server.status, server.payload)
        else:
            start = body.index(b"\r\n\r\n") + 4
            self._answer(*server.keep(dcmread(BytesIO(body[start : body.rindex(b"\r\n--")]))))

    def _answer(self, status: int, payload: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", self.dicomweb.media_type)
        self.send_header("Content-Length", str(len(payload)))
        if self.dicomweb.location is not None:
            self.send_header("Location", self.dicomweb.location)
        self.end_headers()
        try:
            self.wfile.write(payload)
        except OSError:  # the other side waits no more
            self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: a test's output is its assertions."""


def server_context(certificate: Path, key: Path, authority: Path | None) -> ssl.SSLContext:
    """TLS for the server; with an authority a client must show a certificate of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority)
    return context
