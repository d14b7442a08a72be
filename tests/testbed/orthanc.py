"""Orthanc as the PACS: Debian's own build, started by us on free ports with a folder of its own.

An Orthanc that runs as a service on this machine is left alone: other ports, other files, another process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from tests.testbed.dcmtk import free_port, wait_for_port
from tests.testbed.waiting import patience, wait_until

PROGRAMS = ("Orthanc", "/usr/sbin/Orthanc")  # Debian puts it where an ordinary user's PATH does not look


DICOMWEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")  # Debian's orthanc-dicomweb


def program() -> str | None:
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


def dicomweb_plugin() -> Path | None:
    return DICOMWEB_PLUGIN if DICOMWEB_PLUGIN.exists() else None


class Orthanc:
    """A running Orthanc: `port` speaks DICOM as `ae_title`, the rest of the methods speak its REST API.

    The worker is the modality `worker`, called `worker_ae_title` on 127.0.0.1:`worker_port`. With `dicomweb` it loads
    its plugin and speaks DICOMweb at `dicomweb_url`.
    """

    name = "Orthanc"

    def __init__(
        self, folder: Path, worker_port: int, worker_ae_title: str, ae_title: str, *, dicomweb: bool = False
    ) -> None:
        self.ae_title = ae_title
        self.port = free_port()
        self.folder = folder
        self._http_port = free_port()
        self.dicomweb_url = f"http://127.0.0.1:{self._http_port}/dicom-web"
        self._plugins = [str(DICOMWEB_PLUGIN)] if dicomweb else []
        self._modality = [worker_ae_title, "127.0.0.1", worker_port]
        self._process: subprocess.Popen[bytes] | None = None
        self._client: httpx.Client

    def start(self) -> Self:
        """Start it, again with the same storage after a `stop`; RuntimeError when it does not come up."""
        found = program()
        if found is None:
            raise RuntimeError("Orthanc is not installed (apt-get install orthanc)")
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "orthanc.json"
        configuration.write_text(json.dumps(self._configuration(), indent=1))
        with (self.folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(
                [found, str(configuration)], stdout=log, stderr=log, env={**os.environ, "TCP_NODELAY": "1"}
            )
        wait_for_port(self.port, self._process)
        wait_for_port(self._http_port, self._process)
        # Orthanc ends a connection that was kept alive at a moment of its own: a request may just then be lost.
        one_request_each = httpx.Limits(max_keepalive_connections=0)
        url = f"http://127.0.0.1:{self._http_port}"
        self._client = httpx.Client(base_url=url, timeout=patience(60), limits=one_request_each)
        return self

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("Orthanc is not running")
        return self._process.pid

    def stop(self) -> None:
        """End it, by its own process id."""
        if self._process is None:
            return
        self._client.close()
        self._process.terminate()
        try:
            self._process.wait(patience(20))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        self._process = None

    def _configuration(self) -> dict[str, Any]:
        return {
            "Name": "Test bed",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "DicomAet": self.ae_title,
            "DicomPort": self.port,
            "HttpPort": self._http_port,
            "DicomModalities": {"worker": self._modality},
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomServerEnabled": True,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "UnknownSopClassAccepted": True,
            "OverwriteInstances": True,
            "SynchronousCMove": False,
            "StableAge": 1,
            "Plugins": self._plugins,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }

    def upload(self, paths: list[Path]) -> None:
        for path in paths:
            self._client.post("/instances", content=path.read_bytes()).raise_for_status()

    def send_series(self, series_instance_uid: str) -> None:
        """Have Orthanc push the series to the worker by C-STORE; returns when it is through."""
        found = self._find("Series", SeriesInstanceUID=series_instance_uid)
        self._client.post("/modalities/worker/store", json=found).raise_for_status()

    def send_study(self, study_instance_uid: str) -> None:
        """Have Orthanc push the study to the worker over one association; returns when it is through."""
        found = self._find("Study", StudyInstanceUID=study_instance_uid)
        self._client.post("/modalities/worker/store", json=found).raise_for_status()

    def echo_worker(self) -> bool:
        return self._client.post("/modalities/worker/echo", json={}).is_success

    def instances(self, **query: str) -> list[dict[str, Any]]:
        """The main DICOM tags of every instance that matches, SOPClassUID among them, with its `ID`.

        `instances(StudyInstanceUID=..., Modality="SR")`.
        """
        return [self._describe(one) for one in self._find("Instance", **query)]

    def file(self, instance_id: str) -> bytes:
        """The instance as a DICOM file, as Orthanc stores it."""
        return self._client.get(f"/instances/{instance_id}/file").raise_for_status().content

    def files(self, sop_classes: tuple[str, ...], study_instance_uid: str) -> dict[str, bytes]:
        """SOP Instance UID → DICOM file, of these classes and this study."""
        found = self.instances(StudyInstanceUID=study_instance_uid)
        return {one["SOPInstanceUID"]: self.file(one["ID"]) for one in found if one["SOPClassUID"] in sop_classes}

    def delete_study(self, study_instance_uid: str) -> None:
        """Lose a study, as an archive can."""
        for found in self._find("Study", StudyInstanceUID=study_instance_uid):
            self._client.delete(f"/studies/{found}").raise_for_status()

    def retrieve_study(self, study_instance_uid: str, to: str) -> int:
        """Find a study at the worker (C-FIND) and have it sent to an AE title (C-MOVE); the number of studies found."""
        question = {"Level": "Study", "Query": {"StudyInstanceUID": study_instance_uid}}
        asked = self._client.post("/modalities/worker/query", json=question).raise_for_status().json()["Path"]
        found: list[str] = self._client.get(f"{asked}/answers").raise_for_status().json()
        how = {"TargetAet": to, "Synchronous": True}
        self._client.post(f"{asked}/retrieve", json=how).raise_for_status()
        return len(found)

    def commit(self, references: list[tuple[str, str]], seconds: float = 30) -> dict[str, Any]:
        """Ask the worker for storage commitment of (SOP Class, SOP Instance) pairs and return its answer."""
        body = {"DicomInstances": [{"SOPClassUID": a, "SOPInstanceUID": b} for a, b in references]}
        reply = self._client.post("/modalities/worker/storage-commitment", json=body).raise_for_status().json()

        def reported() -> dict[str, Any] | None:
            report: dict[str, Any] = self._client.get(reply["Path"]).raise_for_status().json()
            return None if report["Status"] == "Pending" else report

        return wait_until(reported, "a storage commitment report", seconds, every=0.1)

    def _find(self, level: str, **query: str) -> list[str]:
        body = {"Level": level, "Query": query, "CaseSensitive": True}
        found: list[str] = self._client.post("/tools/find", json=body).raise_for_status().json()
        return found

    def _describe(self, instance_id: str) -> dict[str, Any]:
        tags = self._client.get(f"/instances/{instance_id}/simplified-tags").raise_for_status().json()
        return {**tags, "ID": instance_id}


@contextmanager
def running(
    folder: Path, worker_port: int, *, worker_ae_title: str = "AI_WORKER", ae_title: str = "ORTHANC"
) -> Iterator[Orthanc]:
    """Orthanc for the length of a `with` block."""
    orthanc = Orthanc(folder, worker_port, worker_ae_title, ae_title)
    try:
        yield orthanc.start()
    finally:
        orthanc.stop()
