"""What commands record in the audit trail, and how a change of the trail is found."""

from __future__ import annotations

import json

from tests.testbed.command import Run
from worker.config.settings import Settings


def test_what_a_command_searches_and_changes_is_on_record_and_tampering_is_found(run: Run, settings: Settings) -> None:
    run("tokens", "add", "--role", "operate", "--name", "admin")
    run("results", "list", "--patient-id", "CANARY-ID", "--label", "glioma")
    run("jobs", "retry", "--all")
    _, listed, _ = run("audit", "list", "--format", "json")
    entries = json.loads(listed)
    assert [entry["event"] for entry in entries] == [
        "Security Alert: Use of Restricted Function",
        "Query",
        "Security Alert: User Security Attributes Changed",
    ]
    [file] = settings.audit_dir.glob("*.audit")
    assert "CANARY-ID" not in file.read_text()
    code, out, error = run("audit", "verify", "--format", "json")
    assert (code, json.loads(out)[0]["records"]) == (0, 4)
    assert "here: 4 records, intact" in error

    whole = file.read_bytes()
    file.write_bytes(whole.replace(b">admin<", b">nobody<", 1))
    code, _, error = run("audit", "verify")
    assert code == 1
    assert "record 1 was edited" in error
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    code, _, error = run("audit", "verify")
    assert code == 1
    assert "truncated" in error
    assert run("audit", "accept")[0] == 0
    assert run("audit", "verify")[0] == 0
