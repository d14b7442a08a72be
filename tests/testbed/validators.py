"""Judges of what we send that are not ours: each takes a file and returns what it calls an error, [] when content.

`missing(judge)` says why one cannot run here.
"""

from __future__ import annotations

import atexit
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from itertools import takewhile
from pathlib import Path

from tests.testbed.waiting import patience

_JARS = Path("/usr/share/java")  # where Debian's pixelmed-apps and what it needs live


def dciodvfy(path: Path) -> list[str]:
    """dicom3tools: the attributes of the object against its IOD (PS3.3)."""
    status, text = _run("dciodvfy", path)
    return _lines(text, r"^(Error|Abort)") + _failed("dciodvfy", status != 0)


def dsrdump(path: Path) -> list[str]:
    """DCMTK: reads the document tree and checks its relationships and value representations."""
    return _dcmtk("dsrdump", path)


def dsr2html(path: Path) -> list[str]:
    """DCMTK: renders the document for a browser."""
    return _dcmtk("dsr2html", path)


def tid1500reader(path: Path) -> list[str]:
    """dcmqi: reads the measurements of a TID 1500 report, as research pipelines do."""
    metadata = path.with_suffix(".json")
    status, text = _run(_program("tid1500reader"), "--inputDICOM", path, "--outputMetadata", metadata)
    return _lines(text, r"^(E:|F:|ERROR|Error)") + _failed("tid1500reader", status != 0 or not metadata.exists())


def pixelmed(path: Path) -> list[str]:
    """DicomSRValidator: content against IOD and templates (PS3.16); the gate of the IHE connectathon."""
    text = _sr_validator().validate(path)
    finished = "Root Template Validation Complete" in text and "IOD validation complete" in text
    return _lines(text, r"^Error|Exception") + _failed("DicomSRValidator", not finished)


class _SrValidator:
    """DicomSRValidator in a JVM that stays until this process ends: it starts in seconds.

    Called by its class: Debian's script leaves out most of the class path, and Java 17's limits stop its style sheets.
    """

    def __init__(self) -> None:
        limits = [f"-Djdk.xml.xpath{which}Limit=0" for which in ("ExprOp", "TotalOp", "ExprGrp")]
        jars = ":".join(str(jar) for jar in sorted(_JARS.glob("*.jar")) if "slf4j" not in jar.name)
        source = Path(__file__).with_name("SrValidator.java")
        self._process = subprocess.Popen(
            ["java", "-XX:+UseSerialGC", *limits, "-cp", jars, source],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        atexit.register(self._end)

    def validate(self, path: Path) -> str:
        """What it says of the document; it is ended, and says less, where that takes too long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        overdue = threading.Timer(patience(240), self._process.kill)
        overdue.start()
        try:
            self._process.stdin.write(f"{path.resolve()}\n")
            self._process.stdin.flush()
            return "".join(takewhile(lambda line: line != "END\n", self._process.stdout))
        finally:
            overdue.cancel()

    def _end(self) -> None:
        self._process.communicate()


_sr_validator = cache(_SrValidator)


Judge = Callable[[Path], list[str]]
REPORT_JUDGES: tuple[Judge, ...] = (dciodvfy, dsrdump, dsr2html, tid1500reader, pixelmed)


def missing(judge: Judge) -> str | None:
    """Why this judge cannot run on this machine, None when it can."""
    if judge is pixelmed:
        here = shutil.which("java") and (_JARS / "pixelmed.jar").exists()
        return None if here else "java or Debian's pixelmed-apps is not installed"
    return None if shutil.which(_program(judge.__name__)) else f"{judge.__name__} is not installed"


def _program(name: str) -> str:
    """dcmqi's programs come with its wheel, beside the interpreter that runs the tests."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else name


def _dcmtk(program: str, path: Path) -> list[str]:
    status, text = _run(program, path)
    return _lines(text, r"^(E|F):") + _failed(program, status != 0)


def _run(program: str, *arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, errors="replace", timeout=patience(240)
    )
    return done.returncode, done.stdout + "\n" + done.stderr


def _lines(text: str, pattern: str) -> list[str]:
    return [line for line in text.splitlines() if re.search(pattern, line)]


def _failed(program: str, failed: bool) -> list[str]:
    return [f"{program} did not finish"] if failed else []
