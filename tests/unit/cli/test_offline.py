"""Files to a peer, a question to a peer, and classification, without the service."""

from __future__ import annotations

from pathlib import Path

from tests.testbed.command import Run
from tests.testbed.dcmtk import free_port
from tests.testbed.instances import write_series
from tests.testbed.pacs import Behaviour, Pacs


def test_push_sends_every_file_and_names_those_that_it_cannot(run: Run, tmp_path: Path) -> None:
    files = write_series(tmp_path / "images", 3)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    with Pacs() as pacs:
        code, printed, error = run("push", str(tmp_path / "images"), "--to", f"127.0.0.1:{pacs.port}")
        assert (code, printed) == (1, "3 of 3 instances sent to 127.0.0.1\n")
        assert error == "not sent: notes.txt: the file has no DICOM preamble\n"
        assert len(pacs.stored) == 3
        pacs.behaviour, pacs.status = Behaviour.REFUSE, 0xA700
        code, printed, error = run("push", str(files[0]), "--to", f"127.0.0.1:{pacs.port}")
    assert (code, printed) == (1, "0 of 1 instance sent to 127.0.0.1\n")
    assert error == f"not sent: {files[0].name}: out of resources (status 0xA700)\n"


def test_push_to_nobody_is_a_startup_error(run: Run, tmp_path: Path, config: Path) -> None:
    write_series(tmp_path / "images", 1)
    config.write_text('[[destination]]\nname = "archive"\nurl = "http://127.0.0.1:9/dicom-web"\n')
    code, _, error = run("push", str(tmp_path / "images"), "--to", "pacs")
    assert code == 2
    assert error == "worker: 'pacs' is neither a [[destination]] (known: archive) nor HOST:PORT\n"
    code, _, error = run("push", str(tmp_path / "images"), "--to", "archive")
    assert code == 2
    assert error == "worker: 'archive' cannot be pushed to: it is reached by DICOMweb, not by C-STORE\n"
    code, _, error = run("push", str(tmp_path / "images"), "--to", "pacs:104", "--called", "SEVENTEEN_LETTERS")
    assert code == 2
    assert "is not an address" in error
    (tmp_path / "empty").mkdir()
    assert run("push", str(tmp_path / "empty"), "--to", "pacs:104")[0] == 2


def test_echo_says_who_answers_or_why_nobody_does(run: Run) -> None:
    with Pacs() as pacs:
        address = f"127.0.0.1:{pacs.port}"
        assert run("echo", address, "--called", "PACS") == (0, f"127.0.0.1: PACS at {address} answers C-ECHO\n", "")
    port = free_port()
    code, _, error = run("echo", f"127.0.0.1:{port}")
    assert code == 1
    assert error.startswith(f"worker: 127.0.0.1 does not answer at 127.0.0.1:{port}: connection refused")


def test_a_host_name_that_does_not_resolve_is_told_by_echo_and_push(run: Run, tmp_path: Path) -> None:
    write_series(tmp_path / "images", 1)
    for command in (("echo", "pacs.invalid:104"), ("push", str(tmp_path / "images"), "--to", "pacs.invalid:104")):
        code, printed, error = run(*command)
        assert (code, printed) == (1, "")
        assert "pacs.invalid cannot be reached: the host name 'pacs.invalid' does not resolve" in error


def test_classify_needs_a_series_and_applies_no_rules(run: Run, tmp_path: Path, config: Path) -> None:
    config.write_text('[[route]]\nname = "r"\nrefuse = "no"\n')
    (tmp_path / "images").mkdir()
    code, _, error = run("classify", str(tmp_path / "images"))
    assert code == 2
    assert "[[route]] is not applied" in error
    assert f"no DICOM series could be read in {tmp_path / 'images'}" in error
    assert run("classify", str(tmp_path / "nowhere"))[0] == 2
