"""A destination that is a FHIR R4 server: reports as resources."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any, ClassVar, Literal

from worker.send.destinations.base import Connection, Description, HttpDestination


class FhirDestination(HttpDestination):
    """A [[destination]] with `fhir = true`, to which reports are sent as FHIR R4 resources; it gets no pictures."""

    is_dicom: ClassVar[bool] = False

    fhir: Literal[True]

    @classmethod
    def claims(cls, table: Mapping[str, Any]) -> bool:
        return "fhir" in table

    def open(self, ae_title: str) -> Connection:
        from worker.send.fhir_client import connect

        return connect(self)

    def probe(self, ae_title: str) -> None:
        """A read of the server's CapabilityStatement."""
        from worker.send.fhir_client import connect

        with closing(connect(self)) as server:
            server.probe()

    def describe(self) -> Description:
        return self._describe("FHIR", "a FHIR R4 server")
