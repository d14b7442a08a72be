"""A destination that is a DICOMweb server: Store Instances (STOW-RS, PS3.18 10.5), and what its answers mean."""

from __future__ import annotations

import json
import os
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage
from requests.adapters import HTTPAdapter

from worker import dicom
from worker.config import DicomwebSection
from worker.dicom import derive_uid
from worker.errors import Retry
from worker.outbound.c_store import Rejected, as_comprehensive, stored_status
from worker.tls import client_context

# The server, or what stands before it, cannot just now; 500 may be this object's fault, and still nothing is given up.
_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, *range(500, 600)} - {
    HTTPStatus.NOT_IMPLEMENTED,
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
}
# What servers say of an object that they have: PS3.7 C.5.10, and Azure Health Data Services' own 45070.
_DUPLICATES = {dicom.DUPLICATE_SOP_INSTANCE, 45070}
_JSON = "application/dicom+json"
# Above it the client sends in chunks, which not every server takes; no object of ours comes near.
_CHUNK_BYTES = 64 << 20


class _Session(requests.Session):
    """One server and nothing else: no proxy or password from the environment, no redirect.

    A redirected POST becomes a GET, whose 200 would look like success.
    """

    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__()
        self.trust_env = False
        self.headers["Accept"] = _JSON
        self.last: requests.Response | None = None
        self.hooks["response"].append(self._remember)
        if context is not None:
            self.mount("https://", _TlsAdapter(context))

    def request(self, method: Any, url: Any, **arguments: Any) -> requests.Response:  # type: ignore[override]
        arguments["allow_redirects"] = False
        # dicomweb-client's has no port in it (RFC 9110 7.2); left out, the right one is sent.
        (arguments.get("headers") or {}).pop("Host", None)
        return super().request(method, url, **arguments)

    def _remember(self, response: requests.Response, **_arguments: Any) -> None:
        self.last = response


class _TlsAdapter(HTTPAdapter):
    """Connections by our TLS profile (`worker.tls`)."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **keywords: Any) -> None:
        super().init_poolmanager(*arguments, ssl_context=self._context, **keywords)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing: requests would add authorities of its own to those of the context, which verifies."""


@dataclass(frozen=True, slots=True)
class DicomwebServer:
    """A connection over which objects are stored."""

    destination: DicomwebSection
    session: _Session

    def store(self, ds: Dataset) -> tuple[int, str]:
        """STOW-RS of one object; success or warning status and the SOP Instance UID it was stored under.

        Raises Rejected, or Retry for a fault that passes.
        """
        try:
            return self._store(ds)
        except Rejected as rejected:
            if ds.SOPClassUID != Comprehensive3DSRStorage or rejected.status != dicom.SOP_CLASS_NOT_SUPPORTED:
                raise
            return self._store(as_comprehensive(ds))

    def close(self) -> None:
        self.session.close()

    def _store(self, ds: Dataset) -> tuple[int, str]:
        client = self._client()
        self.session.last = None
        read = Dataset()
        try:
            read = client.store_instances([ds])
        except requests.RequestException as error:
            if self.session.last is None or not isinstance(error, requests.HTTPError):
                raise _no_answer(self.destination, error) from None
        except (ValueError, KeyError, TypeError, AttributeError, SyntaxError):
            pass  # the client could not read the answer; it is judged below, and the text might hold identifiers
        return _judge(self.session.last, read, ds)

    def _client(self) -> DICOMwebClient:
        client = DICOMwebClient(
            self.destination.url,
            session=self.session,
            chunk_size=_CHUNK_BYTES,
            timeout=self.destination.timeout_seconds,
        )
        client.set_http_retry_params(retry=False)  # the delivery's own backoff does that, and it is seen
        return client

    def probe(self) -> None:
        """Search for a study that nobody has (QIDO-RS). Raises Retry when the server does not answer as one."""
        self.session.last = None
        try:
            self._client().search_for_studies(search_filters={"StudyInstanceUID": derive_uid("probe")}, limit=1)
        except requests.RequestException as error:
            if self.session.last is None:
                raise _no_answer(self.destination, error) from None
            self._explain_probe(self.session.last)
        except ValueError:
            raise Retry("not-dicomweb", f"{self.destination.name} answers, but not as a DICOMweb server") from None
        if self.session.last is not None and self.session.last.is_redirect:
            raise Retry("not-dicomweb", f"{self.destination.name} redirects elsewhere: give that URL")

    def _explain_probe(self, response: requests.Response) -> None:
        if response.status_code in (HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED):
            return  # it stores only
        _raise_for_access(response)
        raise Retry("not-dicomweb", f"{self.destination.name} answers HTTP {_shown(response)}")


def connect(destination: DicomwebSection) -> DicomwebServer:
    """Ready to store; nothing is sent yet. Raises Retry when the token cannot be read, StartError for TLS files."""
    context = None
    if destination.url.startswith("https:"):
        files = (destination.tls_certificate, destination.tls_key, destination.tls_authority)
        context = client_context(*files)
    session = _Session(context)
    token = _token(destination)
    if token is not None:
        session.headers["Authorization"] = f"Bearer {token}"
    return DicomwebServer(destination, session)


def _token(destination: DicomwebSection) -> str | None:
    """Read at every connection, so that a token that is renewed is taken up."""
    if destination.bearer_token_variable is not None:
        token = os.environ.get(destination.bearer_token_variable, "").strip()
        where = f"the environment variable {destination.bearer_token_variable}"
    elif destination.bearer_token_file is not None:
        where = str(destination.bearer_token_file)
        try:
            token = destination.bearer_token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            token = ""
    else:
        return None
    if not token or not token.isprintable() or not token.isascii():
        raise Retry("token-missing", f"{destination.name}: {where} holds no bearer token")
    return token


def _no_answer(destination: DicomwebSection, error: requests.RequestException) -> Retry:
    """Why there was no HTTP answer; the exception's own text would repeat the URL."""
    if isinstance(error, requests.exceptions.SSLError):
        return Retry("tls-failed", f"{destination.name}: the TLS handshake failed: are authority and host name right?")
    if isinstance(error, requests.ReadTimeout):
        return Retry("no-answer", "the peer closed the connection or did not answer in time")
    return Retry("peer-unavailable", f"{destination.name} does not answer at {destination.url}")


def _judge(response: requests.Response | None, read: Dataset, ds: Dataset) -> tuple[int, str]:
    """What an answer to a store says of the object (PS3.18 Table 10.5.3-1 and 10.5.3.2).

    `read`: what the client made of it, which knows no JSON of a failure and no parameter of a media type, but XML.
    """
    if response is None:
        raise Retry("no-answer", "the peer closed the connection or did not answer in time")
    uid = str(ds.SOPInstanceUID)
    answer = _store_response(response) or read
    for item in answer.get("FailedSOPSequence", []):
        if str(item.get("ReferencedSOPInstanceUID", uid)) == uid:
            return _failed(_number(item, "FailureReason", dicom.PROCESSING_FAILURE), ds), uid
    if response.status_code in (HTTPStatus.OK, HTTPStatus.ACCEPTED):
        for item in answer.get("ReferencedSOPSequence", []):
            if str(item.get("ReferencedSOPInstanceUID", "")) == uid:
                return _number(item, "WarningReason", dicom.SUCCESS), uid
        if response.status_code == HTTPStatus.OK and not response.content:
            return dicom.SUCCESS, uid  # "all stored", from a server that leaves out its payload
        raise Retry("not-confirmed", f"the peer answered HTTP {_shown(response)}, but not that it stored the object")
    _raise_for_access(response)
    if response.status_code == HTTPStatus.INSUFFICIENT_STORAGE:
        raise Retry("peer-out-of-resources", f"the peer has no room (HTTP {_shown(response)})")
    if response.status_code in _PASSING:
        raise Retry("peer-unavailable", f"the peer answered HTTP {_shown(response)}")
    raise Rejected(None, "rejected", f"the peer answered HTTP {_shown(response)}")


def _failed(reason: int, ds: Dataset) -> int:
    """The status for a Failure Reason; only that of an object which is there already is no failure."""
    if reason in _DUPLICATES:
        return dicom.DUPLICATE_SOP_INSTANCE
    if reason == dicom.SOP_CLASS_NOT_SUPPORTED:
        raise Rejected(reason, "sop-class-refused", f"the peer does not take {ds.SOPClassUID.name}")
    if reason == dicom.TRANSFER_SYNTAX_NOT_SUPPORTED:
        name = ds.file_meta.TransferSyntaxUID.name
        raise Rejected(reason, "transfer-syntax-refused", f"the peer does not take {name}")
    if reason == dicom.SUCCESS or reason >> 12 == 0xB:  # no failure reason, in a list of failures
        raise Rejected(reason, "rejected", f"the peer answered 0x{reason:04X}")
    return stored_status(reason)


def _store_response(response: requests.Response) -> Dataset:
    """The Store Instances Response Module in the answer, empty where there is none (PS3.18 Annex I)."""
    if response.headers.get("Content-Type", "").partition(";")[0].strip() not in (_JSON, "application/json"):
        return Dataset()
    try:
        content = json.loads(response.content)
        return Dataset.from_json(content[0] if isinstance(content, list) else content)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):  # no DICOM JSON: it says nothing
        return Dataset()


def _number(item: Dataset, keyword: str, default: int) -> int:
    try:
        return int(item.get(keyword, default))
    except (TypeError, ValueError):
        return default


def _raise_for_access(response: requests.Response) -> None:
    if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise Retry("not-authorised", f"the peer answered HTTP {_shown(response)}: is the bearer token right?")


def _shown(response: requests.Response) -> str:
    try:
        return f"{response.status_code} {HTTPStatus(response.status_code).phrase}"
    except ValueError:
        return str(response.status_code)
