"""`make demo`: the main job, from a scanner's study to its report in the PACS, on this machine, with real parts.

Exit 0 when a report and a picture of each study arrived in the PACS, 1 with a sentence otherwise.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import groupby
from pathlib import Path

from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.tree import Tree

from tests.testbed import dcmtk, orthanc, pacs, phantom
from tests.testbed.orthanc import Orthanc
from tests.testbed.pacs import Pacs
from tests.testbed.waiting import wait_until
from tests.testbed.worker_process import WorkerProcess

STUDIES = {"a healthy head": False, "a head with a simulated mass": True}  # title: with a mass
SERIES = {"AX FLAIR": True, "AX T1 POST": False}  # of each study: on FLAIR, or T1 with a contrast agent
KEPT = Path("var") / "demo"  # the heads and the pictures: what somebody sends next, and looks at
ANSWER_SECONDS = 180
Archive = Orthanc | Pacs

console = Console(highlight=False)


def main() -> int:
    console.print(
        Panel("An AI worker for the PACS, end to end.\n[bold]Research use only: not for diagnosis.[/bold]", width=60)
    )
    folder = Path(tempfile.mkdtemp(prefix="worker-demo-"))
    worker_port = dcmtk.free_port()
    try:
        with _archive(folder, worker_port) as archive:
            worker = WorkerProcess(
                folder / "worker",
                destinations={"pacs": (archive.ae_title, archive.port)},
                settings={"report": {"level": "study"}, "study": {"quiet_seconds": 2}},
                port=worker_port,
                environment={"COLUMNS": str(max(console.width, 110))},
            )
            try:
                _show(folder, archive, worker)
            finally:
                worker.kill()
    except (RuntimeError, TimeoutError) as error:
        console.print(f"[red]The demo failed:[/red] {error}")
        console.print(f"The worker's log and files are kept in {folder}")
        return 1
    shutil.rmtree(folder)
    console.print("Everything is stopped. [green]All studies were answered.[/green]")
    return 0


@contextmanager
def _archive(folder: Path, worker_port: int) -> Iterator[Archive]:
    if orthanc.program() is not None:
        console.print("Starting a PACS: Orthanc ...")
        with orthanc.running(folder / "orthanc", worker_port) as server:
            yield server
    else:
        console.print("Starting a PACS: a stand-in, because Orthanc is not installed (apt-get install orthanc) ...")
        with Pacs() as stand_in:
            yield stand_in


def _show(folder: Path, archive: Archive, worker: WorkerProcess) -> None:
    console.print("Starting the worker: worker serve, with SQLite ...")
    with console.status("checking the model bundle"):
        worker.start()
    console.print(f"  it listens for DICOM on port {worker.port} and checked its model with the golden cases")
    sources = {}
    for title, mass in STUDIES.items():
        with console.status(f"building {title}"):
            folders = _build(title, mass)
        sources[title] = _send(worker, folders)
        console.print(f"Sent {title}: a study of {' and '.join(SERIES)}, 24 axial MR slices each, by C-STORE")
    found = {}
    for title, source in sources.items():
        with console.status(f"waiting for the report of {title}"):
            found[title] = _wait_for_answer(archive, source)
        console.print(f"  the PACS received one report and one picture of {title}")

    console.rule("worker studies list")
    console.out(worker.run("studies", "list").stdout.rstrip())
    _print_said(worker, sources)
    title = list(STUDIES)[-1]
    console.rule(f"the Structured Report of {title}, as the PACS has it")
    _print_report(found[title][0], folder)
    console.rule("the pictures, and the studies as DICOM")
    for title, (_, picture) in found.items():
        console.print(f"{title}: {_write_png(picture, title)}  {_kept(title)}{os.sep}", soft_wrap=True)
    if (code := worker.stop(10)) != 0:
        raise RuntimeError(f"worker serve ended with exit code {code}")


def _build(title: str, mass: bool) -> list[Path]:
    """The folders of the series of a study."""
    shared = {"PatientID": "DEMO-MASS" if mass else "DEMO-HEALTHY", "StudyInstanceUID": generate_uid()}
    folders = []
    for number, (description, flair) in enumerate(SERIES.items(), 3):
        own = {"SeriesNumber": number, "SeriesDescription": description, **shared}
        folder = _kept(title) / description.replace(" ", "-")
        phantom.head_series(folder, mass=mass, flair=flair, attributes=own)
        folders.append(folder)
    return folders


def _send(worker: WorkerProcess, folders: list[Path]) -> FileDataset:
    """Send the series of a study over one association; the header of an image of it."""
    study = str(folders[0].parent)
    done = worker.run("push", study, "--to", f"127.0.0.1:{worker.port}", "--called", "AI_WORKER")
    if done.returncode != 0:
        raise RuntimeError(f"the study could not be sent: {done.stderr.strip()}")
    return dcmread(next(folders[0].glob("*.dcm")), stop_before_pixels=True)


def _wait_for_answer(archive: Archive, source: Dataset) -> tuple[bytes, bytes]:
    """The report and the picture of the source's study, as DICOM files from the PACS."""

    def answer() -> tuple[bytes, bytes] | None:
        reports = archive.files(pacs.REPORTS, source.StudyInstanceUID)
        pictures = archive.files(pacs.PICTURES, source.StudyInstanceUID)
        return (next(iter(reports.values())), next(iter(pictures.values()))) if reports and pictures else None

    return wait_until(answer, "a report and a picture to arrive in the PACS", ANSWER_SECONDS, every=1)


def _print_said(worker: WorkerProcess, sources: dict[str, FileDataset]) -> None:
    """What was sent beside what the model says of it: a phantom is no patient, and the model may well be wrong."""
    table = Table("sent", "the model says", "probability", "reason")
    for title, source in sources.items():
        shown = worker.run("studies", "show", source.StudyInstanceUID, "--format", "json")
        [study] = json.loads(shown.stdout)
        probability = study["probability"]
        shown_probability = "" if probability is None else f"{probability:.3f}"
        table.add_row(title, study["label"] or study["status"], shown_probability, study["reason"] or "")
    console.print(table)


def _print_report(report: bytes, folder: Path) -> None:
    path = folder / "report.dcm"
    path.write_bytes(report)
    if dcmtk.installed("dsrdump"):
        printed = dcmtk.run("dsrdump", path).splitlines()
        for line in _shortened(line for line in printed if not line.startswith("W:")):
            console.out(line)
        return
    ds = dcmread(path)
    tree = Tree(_node(ds))
    _grow(tree, ds)
    console.print(tree)


def _shortened(lines: Iterable[str]) -> Iterator[str]:
    """Equal neighbours, such as the references to 24 images, as one line."""
    for line, repeated in groupby(lines):
        more = len(list(repeated)) - 1
        yield f"{line}  (and {more} more like it)" if more and line.strip() else line


def _grow(tree: Tree, item: Dataset) -> None:
    children = list(item.get("ContentSequence", []))
    if not any("ContentSequence" in child for child in children):
        for line in _shortened(map(_node, children)):
            tree.add(line)
        return
    for child in children:
        _grow(tree.add(_node(child)), child)


def _node(item: Dataset) -> str:
    """A content item on one line: type, name, value (PS3.3 C.17.3)."""
    names = item.get("ConceptNameCodeSequence", [])
    name = f"{names[0].CodeMeaning}" if names else ""
    match item.ValueType:
        case "CODE":
            value = item.ConceptCodeSequence[0].CodeMeaning
        case "NUM":
            value = str(item.MeasuredValueSequence[0].NumericValue)
        case "TEXT":
            value = item.TextValue
        case "UIDREF":
            value = item.UID
        case "PNAME":
            value = str(item.PersonName)
        case _:
            value = ""
    return f"{item.ValueType} {name} = {value}" if value else f"{item.ValueType} {name}"


def _kept(title: str) -> Path:
    return (KEPT / title.replace(" ", "-")).resolve()


def _write_png(picture: bytes, title: str) -> Path:
    path = _kept(title).with_suffix(".png")
    Image.fromarray(dcmread(BytesIO(picture)).pixel_array).save(path)
    return path


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of third parties: a person reads this output
    sys.exit(main())
