"""A destination that is a DICOMweb server: Store Instances (STOW-RS, PS3.18 10.5), and what its answers mean."""

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
from worker.send.destinations.base import HttpDestination, Rejected
from worker.send.storage_scu import as_comprehensive, stored_status

# What servers say of an object that they have: PS3.7 C.5.10, and Azure Health Data Services' own 45070.
_DUPLICATES = {standard.DUPLICATE_SOP_INSTANCE, 45070}
_JSON = "application/dicom+json"
# Above it the client sends in chunks, which not every server takes; no object of ours comes near.
_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class DicomwebServer:
    """A connection over which objects are stored."""

    destination: HttpDestination
    session: http.Session

    def store(self, ds: Dataset) -> tuple[int, str]:
        """STOW-RS of one object; success or warning status and the SOP Instance UID it was stored under.

        Raises Rejected, or Retry for a fault that passes.
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
        read = Dataset()
        try:
            read = client.store_instances([ds])
        except requests.RequestException as error:
            if self.session.last is None or not isinstance(error, requests.HTTPError):
                raise http.no_answer(self.destination, error) from None
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
                raise http.no_answer(self.destination, error) from None
            self._explain_probe(self.session.last)
        except ValueError:
            raise Retry("not-dicomweb", f"{self.destination.name} answers, but not as a DICOMweb server") from None
        if self.session.last is not None and self.session.last.is_redirect:
            raise Retry("not-dicomweb", f"{self.destination.name} redirects elsewhere: give that URL")

    def _explain_probe(self, response: requests.Response) -> None:
        if response.status_code in (HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED):
            return  # it stores only
        http.raise_for_access(response)
        raise Retry("not-dicomweb", f"{self.destination.name} answers HTTP {http.shown(response)}")


def connect(destination: HttpDestination) -> DicomwebServer:
    """Ready to store; nothing is sent yet. Raises Retry when the token cannot be read, StartError for TLS files."""
    return DicomwebServer(destination, http.connect(destination, _JSON))


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
            return _failed(_number(item, "FailureReason", standard.PROCESSING_FAILURE), ds), uid
    if response.status_code in (HTTPStatus.OK, HTTPStatus.ACCEPTED):
        for item in answer.get("ReferencedSOPSequence", []):
            if str(item.get("ReferencedSOPInstanceUID", "")) == uid:
                return _number(item, "WarningReason", standard.SUCCESS), uid
        if response.status_code == HTTPStatus.OK and not response.content:
            return standard.SUCCESS, uid  # "all stored", from a server that leaves out its payload
        raise Retry(
            "not-confirmed", f"the peer answered HTTP {http.shown(response)}, but not that it stored the object"
        )
    http.raise_for_access(response)
    if response.status_code == HTTPStatus.INSUFFICIENT_STORAGE:
        raise Retry("peer-out-of-resources", f"the peer is out of storage space (HTTP {http.shown(response)})")
    if response.status_code in http.PASSING:
        raise Retry("peer-unavailable", f"the peer answered HTTP {http.shown(response)}")
    raise Rejected(None, "rejected", f"the peer answered HTTP {http.shown(response)}")


def _failed(reason: int, ds: Dataset) -> int:
    """The status for a Failure Reason; only that of an object which is there already is no failure."""
    if reason in _DUPLICATES:
        return standard.DUPLICATE_SOP_INSTANCE
    if reason == standard.SOP_CLASS_NOT_SUPPORTED:
        raise Rejected(reason, "sop-class-refused", f"the peer does not accept {ds.SOPClassUID.name}")
    if reason == standard.TRANSFER_SYNTAX_NOT_SUPPORTED:
        name = ds.file_meta.TransferSyntaxUID.name
        raise Rejected(reason, "transfer-syntax-refused", f"the peer does not accept {name}")
    if reason == standard.SUCCESS or reason >> 12 == 0xB:  # no failure reason, in a list of failures
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
