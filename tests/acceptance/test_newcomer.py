"""README.md and docs/orthanc.md, followed as written: connect an Orthanc, send a head, read and fetch it, add a model.

Their own blocks are what is configured and run. What differs: ports, the quiet time, a smaller head.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.testbed import orthanc, phantom
from tests.testbed.dcmtk import free_port, wait_for_port
from tests.testbed.waiting import patience, wait_until
from tests.testbed.worker_process import WorkerProcess
from worker.inference.bundle import default_bundle

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
ORTHANC = (ROOT / "docs" / "orthanc.md").read_text()
SMALL = phantom.Grid(slices=8)

pytestmark = pytest.mark.skipif(orthanc.program() is None, reason="Orthanc is not installed")


def blocks(section: str, language: str) -> list[str]:
    """The code blocks of one section of the README, without the indentation of a list."""
    [text] = re.findall(rf"^## {section}\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    return blocks_of(text, language)


def blocks_of(text: str, language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


class Newcomer(WorkerProcess):
    """A clone's folder with the worker, configured as the README says, and an Orthanc that is, too."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._ports = {"11112": self.port, "8080": self.web_port, "4242": free_port(), "8042": free_port()}
        self.orthanc_http = self._ports["8042"]

    def write_config(self) -> Path:
        peer = blocks_of(ORTHANC, "toml")[-1]
        text = (ROOT / "config.toml").read_text() + "".join(blocks("Connect your PACS", "toml")) + peer
        self.config.write_text(self.here(text.replace("quiet_seconds = 10", "quiet_seconds = 1")))
        return self.config

    def here(self, text: str) -> str:
        text = re.sub("|".join(self._ports), lambda documented: str(self._ports[documented[0]]), text)
        return text.replace(" worker/bundles", f" {ROOT}/worker/bundles")

    def sh(self, line: str) -> str:
        """What a command of the README prints, in the clone and with its environment activated."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", self.here(line)], cwd=self.folder, env={**os.environ, "PATH": path, "COLUMNS": "120"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=patience(180), check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def orthanc(self) -> Iterator[None]:
        folder = self.folder / "var" / "orthanc"
        folder.mkdir(parents=True)
        [settings], [script] = blocks_of(ORTHANC, "json"), blocks_of(ORTHANC, "lua")
        ports = {"DicomPort": self._ports["4242"], "HttpPort": self.orthanc_http}
        (folder / "orthanc.json").write_text(json.dumps({**json.loads(self.here(settings)), **ports, "StableAge": 5}))
        (folder / "to-ai.lua").write_text(script)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([str(orthanc.program()), "orthanc.json"], cwd=folder, stdout=log, stderr=log)
        try:
            wait_for_port(self._ports["4242"], process)
            wait_for_port(self.orthanc_http, process)
            yield
        finally:
            process.terminate()
            process.wait(60)

    def modalities(self) -> set[str]:
        """Of the series that Orthanc holds."""
        series = httpx.get(f"http://127.0.0.1:{self.orthanc_http}/series?expand", timeout=patience(30)).json()
        return {one["MainDicomTags"]["Modality"] for one in series}


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    """After `make demo`, with the PACS and the worker started."""
    clone = Newcomer(tmp_path_factory.mktemp("clone"))
    for name, mass in (("a-head-with-a-simulated-mass", True), ("a-healthy-head", False)):
        phantom.head_series(clone.folder / "var" / "demo" / name, grid=SMALL, mass=mass)
    with clone.orthanc():
        try:
            yield clone.start()
        finally:
            clone.kill()


def test_a_report_comes_back_and_is_read(newcomer: Newcomer) -> None:
    start, push = blocks("Connect your PACS", "sh")
    [doctor] = [line for line in start.splitlines() if line.startswith("worker doctor")]
    assert "fault" not in newcomer.sh(doctor)
    newcomer.sh(push)
    wait_until(lambda: newcomer.modalities() >= {"MR", "SR", "OT"}, "report and picture in the PACS")
    delivered = "SELECT 1 FROM delivery WHERE state = 'delivered'"
    wait_until(lambda: len(newcomer.rows(delivered)) == 2, "the worker's note of it")

    shell, [script] = blocks("Read results", "sh")[0].splitlines(), blocks("Read results", "python")
    [ending] = re.findall(r"…(\d+)", newcomer.sh(shell[0]))
    [show] = [line for line in shell if line.startswith("worker results show")]
    assert "patient id" in newcomer.sh(re.sub(r"\d{5,}", ending, show))
    [study] = [line for line in shell if line.startswith("worker studies show")]
    [(uid,)] = newcomer.rows("SELECT study_instance_uid FROM study")
    assert "delivered" in newcomer.sh(re.sub(r"[\d.]{9,}", uid, study))
    [token] = [line for line in shell if line.startswith("worker tokens add")]
    newcomer.sh(token)
    (newcomer.folder / "read.py").write_text(newcomer.here(script))
    [(patient, label, probability)] = ast.literal_eval(newcomer.sh("python read.py"))
    assert patient.startswith("PHANTOM")
    assert label in newcomer.sh(shell[0])
    assert 0.5 <= probability <= 1.0


def test_orthanc_retrieves_from_the_worker_and_the_worker_from_orthanc(newcomer: Newcomer) -> None:
    [(patient, accession)] = newcomer.rows("SELECT DISTINCT patient_id, accession_number FROM series")
    [block] = blocks_of(ORTHANC, "sh")
    block = block.replace("DEMO-MASS", patient).replace("A0001", accession)
    search, answers, retrieve, fetch = [f"{line} --fail" for line in block.splitlines() if line.startswith("curl")] + [
        line for line in block.splitlines() if line.startswith("worker")
    ]
    query = json.loads(newcomer.sh(search))["ID"]
    [study] = json.loads(newcomer.sh(answers.replace("ID", query)))
    assert study["PatientID"] == patient
    address = f"http://127.0.0.1:{newcomer.orthanc_http}/studies"
    [stored] = httpx.get(address, timeout=patience(30)).json()
    httpx.delete(f"{address}/{stored}", timeout=patience(30)).raise_for_status()
    assert newcomer.modalities() == set()
    newcomer.sh(retrieve.replace("ID", query))
    assert newcomer.modalities() == {"MR", "SR", "OT"}
    assert f"{SMALL.slices + 2} images sent to AI_WORKER, 0 failed" in newcomer.sh(fetch)


def test_a_model_is_added_tried_in_shadow_activated_and_taken_back(newcomer: Newcomer) -> None:
    [block] = blocks("Add a model", "sh")
    before, compare, after = block.partition("worker models compare")
    newcomer.sh(f"set -e\n{before}")
    wait_until(lambda: newcomer.rows("SELECT 1 FROM shadow_result"), "the result of the model in shadow")
    compare, activate, rollback, listing = f"{compare}{after}".splitlines()
    shipped = json.loads((default_bundle() / "worker.json").read_text())["version"]
    assert "agreement: 1 of 1, 100.0%" in newcomer.sh(compare)
    assert f"active: brain-mri-tumour {shipped}-copy" in newcomer.sh(activate)
    newcomer.sh(rollback)
    assert re.search(rf"{re.escape(shipped)} +active", newcomer.sh(listing))
    newcomer.require_alive()
