from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from worker.logs import fault_fields, mask_identifiers


@pytest.mark.parametrize("field", ["patient_id", "PatientName", "accession_number", "series_instance_uid"])
def test_a_field_that_names_an_identifier_is_refused(field: str) -> None:
    assert mask_identifiers(None, "info", {field: "secret"})[field] == "***"


@pytest.mark.parametrize("text", ["CANARY^NAME", "file 1.2.840.10008.5.1.4.1.1.4 is bad"])
def test_a_value_in_the_form_of_an_identifier_is_refused(text: str) -> None:
    shown = mask_identifiers(None, "info", {"event": text})["event"]
    assert "CANARY" not in shown
    assert "1.2.840" not in shown


def test_facts_pass() -> None:
    event = {"event": "series settled", "series_row": 3, "version": "0.1.0", "host": "127.0.0.1"}
    assert mask_identifiers(None, "info", dict(event)) == event


@pytest.mark.parametrize(
    "statement",
    [
        "raise ValueError('CANARY^NAME')",
        "import threading; t = threading.Thread(target=lambda: int('CANARY')); t.start(); t.join()",
        "import warnings; warnings.warn('CANARY^NAME')",
        "import logging; logging.getLogger('any.library').error('CANARY^NAME')",
        "class A:\n  def __del__(self): raise ValueError('CANARY')\nA()",
    ],
    ids=["exception", "thread", "warning", "library", "destructor"],
)
def test_python_itself_prints_no_text_of_a_library(statement: str) -> None:
    program = f"from worker.logs import guard_standard_error\nguard_standard_error()\n{statement}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "CANARY" not in done.stderr
    assert ("unexpected ValueError at" in done.stderr) == ("warn" not in statement and "logging" not in statement)


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"], ids=["full", "closed"])
def test_a_line_that_cannot_be_written_is_lost_and_raises_nothing(redirection: str) -> None:
    program = (
        "from worker.logs import configure_logs, get_log\nconfigure_logs()\n"
        "for number in range(3): get_log().info('an event', number=number)\nprint('done')"
    )
    command = f'"{sys.executable}" -c "{program}" {redirection}'
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, text=True, check=False)
    assert done.stdout == "done\n"


def test_a_fault_is_logged_without_its_text() -> None:
    try:
        raise ValueError("CANARY^NAME")
    except ValueError as error:
        fields = fault_fields(error)
    assert fields["fault"] == "ValueError"
    assert "test_logs.py" in fields["at"]
    assert "CANARY" not in str(fields)


def _on_a_terminal(program: str, **environment: str) -> str:
    """What a program writes to standard error when that is a terminal."""
    primary, secondary = os.openpty()
    with os.fdopen(primary, "rb") as screen:
        with os.fdopen(secondary, "wb") as terminal:
            env = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | environment
            subprocess.run([sys.executable, "-c", program], stderr=terminal, env=env | {"TERM": "xterm"}, check=True)
        return os.read(screen.fileno(), 1 << 16).decode()


LINES = """
from worker.logs import configure_logs, get_log
configure_logs("INFO")
get_log().debug("not shown")
get_log().info("series settled", series_row=3, patient_id="CANARY", detail=None)
get_log().warning("association refused", ae_title="\\x1b[2JEVIL", reason="two words")
"""


def test_on_a_terminal_a_line_is_to_be_read_and_elsewhere_json() -> None:
    shown = _on_a_terminal(LINES)
    assert "\x1b[33mwarning\x1b[0m" in shown
    plain = _on_a_terminal(LINES, NO_COLOR="1").splitlines()
    assert [line.split(" ", 1)[1] for line in plain] == [
        "info    series settled  series_row=3 patient_id=***",
        "warning association refused  ae_title='\\x1b[2JEVIL' reason=\"two words\"",
    ]
    assert "\x1b" not in "".join(plain), "a peer's text controls no terminal"
    piped = subprocess.run([sys.executable, "-c", LINES], capture_output=True, text=True, check=True).stderr
    assert [json.loads(line)["event"] for line in piped.splitlines()] == ["series settled", "association refused"]
