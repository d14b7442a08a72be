"""Store Instances over DICOMweb (STOW-RS, PS3.18 10.5): the requests, and what the answers mean."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus

import requests
from dicomweb_client import DICOMwebClient
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from worker.dicom import standard
from worker.dicom.standard import derive_uid
from worker.errors import Retry
from worker.send import http
from worker.send.destinations.base import ConnectionLost, HttpDestination, Rejected
from worker.send.storage_scu import as_comprehensive, stored_status

# Failure Reasons for an object that the server has already: PS3.7 C.5.10; 45070 of Azure Health Data Services.
_DUPLICATES = {standard.DUPLICATE_SOP_INSTANCE, 45070}
_JSON = "application/dicom+json"
# The client sends larger bodies in chunks, which some servers reject; our objects are far smaller.
_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class DicomwebServer:
    """A connection to a DICOMweb server over which objects are stored."""

    destination: HttpDestination
    session: http.Session

    def store(self, ds: Dataset) -> tuple[int, str]:
        """STOW-RS of one object; the success or warning status and the SOP Instance UID under which it was stored.

        Raises Rejected, or Retry for a temporary fault.
        """
        try:
            return self._store(ds)
        except Rejected as rejected:
            if ds.SOPClassUID != Comprehensive3DSRStorage or rejected.status != standard.SOP_CLASS_NOT_SUPPORTED:
                raise
            return self._store(as_comprehensive(ds))

    def close(self) -> None:
        self.session.close()

    def _store(self, ds: Dataset) -> tuple[int, str]:
        client = self._client()
        self.session.last = None
        parsed = Dataset()
        try:
            parsed = client.store_instances([ds])
        except requests.RequestException as error:
            if self.session.last is None or not isinstance(error, requests.HTTPError):
                raise http.unanswered(self.destination, error) from None
        except (ValueError, KeyError, TypeError, AttributeError, SyntaxError):
            pass  # an answer that the client cannot parse is evaluated below; the exception's text may hold identifiers
        return _evaluate(self.session.last, parsed, ds)

    def _client(self) -> DICOMwebClient:
        client = DICOMwebClient(
            self.destination.url,
            session=self.session,
            chunk_size=_CHUNK_BYTES,
            timeout=self.destination.timeout_seconds,
        )
        client.set_http_retry_params(retry=False)  # the delivery has a backoff of its own, which pages and metrics show
        return client

    def probe(self) -> None:
        """Search for a study that does not exist (QIDO-RS). Raises Retry when the server does not speak DICOMweb."""
        self.session.last = None
        try:
            self._client().search_for_studies(search_filters={"StudyInstanceUID": derive_uid("probe")}, limit=1)
        except requests.RequestException as error:
            if self.session.last is None:
                raise http.unanswered(self.destination, error) from None
            self._explain_probe(self.session.last)
        except ValueError:
            raise Retry("not-dicomweb", f"{self.destination.name} answers, but not as a DICOMweb server") from None
        if self.session.last is not None and self.session.last.is_redirect:
            raise Retry("not-dicomweb", f"{self.destination.name} redirects to another URL: configure that URL")

    def _explain_probe(self, response: requests.Response) -> None:
        if response.status_code in (HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED):
            return  # the server supports storing only
        http.raise_for_access(response)
        raise Retry("not-dicomweb", f"{self.destination.name} answers HTTP {http.status_explained(response)}")


def connect(destination: HttpDestination) -> DicomwebServer:
    """Prepare a connection; sends nothing. Raises Retry for an unreadable token, StartError for unusable TLS files."""
    return DicomwebServer(destination, http.connect(destination, _JSON))


def _evaluate(response: requests.Response | None, parsed: Dataset, ds: Dataset) -> tuple[int, str]:
    """Status and SOP Instance UID of the object in the answer to a store (PS3.18 Table 10.5.3-1 and 10.5.3.2).

    `parsed` is the client's reading of the answer. The client parses XML, but no JSON of a failed request and no media
    type with parameters. Raises Rejected or Retry.
    """
    if response is None:
        raise ConnectionLost("no-answer", "the peer closed the connection or did not answer in time")
    uid = str(ds.SOPInstanceUID)
    answer = _store_response(response) or parsed
    for item in answer.get("FailedSOPSequence", []):
        if str(item.get("ReferencedSOPInstanceUID", uid)) == uid:
            return _failed(_number(item, "FailureReason", standard.PROCESSING_FAILURE), ds), uid
    if response.status_code in (HTTPStatus.OK, HTTPStatus.ACCEPTED):
        for item in answer.get("ReferencedSOPSequence", []):
            if str(item.get("ReferencedSOPInstanceUID", "")) == uid:
                return _number(item, "WarningReason", standard.SUCCESS), uid
        if response.status_code == HTTPStatus.OK and not response.content:
            return standard.SUCCESS, uid  # "all stored", from a server that omits the payload
        raise Retry(
            "not-confirmed", f"the peer answered HTTP {http.status_line(response)}, but not that it stored the object"
        )
    http.raise_for_access(response)
    if response.status_code == HTTPStatus.INSUFFICIENT_STORAGE:
        raise Retry("peer-out-of-resources", f"the peer is out of storage space (HTTP {http.status_line(response)})")
    if response.status_code in http.TEMPORARY:
        raise Retry("peer-unavailable", f"the peer answered HTTP {http.status_explained(response)}")
    raise Rejected(None, "rejected", f"the peer answered HTTP {http.status_explained(response)}")


def _failed(reason: int, ds: Dataset) -> int:
    """The status for a Failure Reason, where the server has the object already. Raises Rejected or Retry for others."""
    if reason in _DUPLICATES:
        return standard.DUPLICATE_SOP_INSTANCE
    if reason == standard.SOP_CLASS_NOT_SUPPORTED:
        raise Rejected(reason, "sop-class-refused", f"the peer does not accept {ds.SOPClassUID.name}")
    if reason == standard.TRANSFER_SYNTAX_NOT_SUPPORTED:
        name = ds.file_meta.TransferSyntaxUID.name
        raise Rejected(reason, "transfer-syntax-refused", f"the peer does not accept {name}")
    if standard.is_stored(reason):  # a success or warning in the list of failures
        raise Rejected(reason, "rejected", f"the peer answered 0x{reason:04X}")
    return stored_status(reason)


def _store_response(response: requests.Response) -> Dataset:
    """The Store Instances Response Module of the answer, empty where there is none (PS3.18 Annex I)."""
    if response.headers.get("Content-Type", "").partition(";")[0].strip() not in (_JSON, "application/json"):
        return Dataset()
    try:
        content = json.loads(response.content)
        return Dataset.from_json(content[0] if isinstance(content, list) else content)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):  # not DICOM JSON
        return Dataset()


def _number(item: Dataset, keyword: str, default: int) -> int:
    try:
        return int(item.get(keyword, default))
    except (TypeError, ValueError):
        return default
