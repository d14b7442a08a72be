"""A destination that is a DICOMweb server: Store Instances (STOW-RS, PS3.18 10.5)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

from worker.send.destinations.base import Connection, Description, HttpDestination


class StowDestination(HttpDestination):
    """A [[destination]] with a `url`, to which reports and pictures are sent by STOW-RS."""

    key_objects: bool = False

    @classmethod
    def claims(cls, table: Mapping[str, Any]) -> bool:
        return "url" in table and "fhir" not in table

    @property
    def wants_key_objects(self) -> bool:
        return self.key_objects

    def open(self, ae_title: str) -> Connection:
        from worker.send.stow_client import connect

        return connect(self)

    def probe(self, ae_title: str) -> None:
        """A search for a study that nobody has."""
        from worker.send.stow_client import connect

        with closing(connect(self)) as server:
            server.probe()

    def describe(self) -> Description:
        return self._describe("DICOMweb", "a DICOMweb server")
