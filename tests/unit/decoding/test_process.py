"""The process itself: what it may not do, and what it tells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from worker.decoding.wire import HEAD, Kind


def test_faults_are_answered_in_words_without_the_file_and_the_process_ends_with_its_input(tmp_path: Path) -> None:
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(b"CANARY^NAME" * 100)
    request = {"operation": "native_frames", "files": [str(bad)], "arguments": {"numbers": None}}
    done = subprocess.run(
        [sys.executable, "-m", "worker.decoding.process", "5", str(256 << 20)],
        input=json.dumps(request).encode() + b"\n", capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    kind, length = HEAD.unpack(done.stdout[: HEAD.size])
    assert (kind, done.stdout[HEAD.size : HEAD.size + length]) == (Kind.OPENING, b"0")
    rest = done.stdout[HEAD.size + length :]
    assert HEAD.unpack(rest[: HEAD.size])[0] == Kind.REFUSED
    assert json.loads(rest[HEAD.size :])[0] == "not-dicom"
    assert b"CANARY" not in done.stdout


def test_process_writes_no_file_and_prints_nothing_on_the_wire(tmp_path: Path) -> None:
    program = f"""
import sys
from worker.decoding import operations, process
def naughty(files, opening, **arguments):
    print("a codec's complaint", flush=True)
    with open({str(tmp_path / "x")!r}, "wb") as file:
        file.write(b"x")
    yield b"written"
operations.OPERATIONS["native_frames"] = naughty
process.main(5, 256 << 20)
"""
    request = {"operation": "native_frames", "files": ["x"], "arguments": {}}
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(request).encode() + b"\n", capture_output=True, timeout=60
    )
    assert HEAD.unpack(done.stdout[: HEAD.size])[0] == Kind.DISK
    assert b"complaint" not in done.stdout
