"""The commands that prepare and check the service. `worker serve` itself: tests/acceptance/test_start_and_stop.py."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from pathlib import Path

from tests.testbed.command import Run
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.db.processes import beat
from worker.db.tables import REVISION
from worker.process import ProcessRole, process_name


def test_migrate_says_from_which_schema_to_which(run: Run, settings: Settings, config: Path) -> None:
    assert run("migrate") == (0, f"database: {REVISION}, up to date\n", "")
    other = config.with_name("other.db")
    config.write_text(f'[database]\nurl = "sqlite:///{other}"')
    assert run("migrate") == (0, f"database: empty → {REVISION}\n", "")


def test_doctor_ends_with_1_while_something_is_wrong(run: Run, settings: Settings) -> None:
    code, printed, _ = run("doctor", "--role", "infer")
    assert (code, printed.split(":")[0]) == (1, "fault infer")
    assert "worker serve --role infer" in printed
    database = Database(settings.database.url)
    now = datetime.now(UTC)
    with database.write() as session:
        beat(session, process_name(), ProcessRole.INFER, now, now)
    database.close()
    assert run("doctor", "--role", "infer") == (0, "ok    infer: 1 running on this host\n", "")


def test_serve_does_not_start_on_a_port_in_use(run: Run, config: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        config.write_text(
            f'[receive]\nhost = "127.0.0.1"\nport = {port}\n[database]\nurl = "sqlite:///var/worker.db"\n'
        )
        code, _, error = run("serve")
    assert code == 2
    assert f"127.0.0.1:{port}" in error


def test_doctor_names_everything_that_stops_serve_at_once(run: Run, config: Path) -> None:
    """A folder that cannot be made, a port in use, names that do not resolve, TLS files that are missing."""
    (config.parent / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        config.write_text(
            f"""
[worker]
data_dir = "file/data"
bundle = "absent-bundle"
[database]
url = "sqlite:///other.db"
[receive]
host = "127.0.0.1"
port = {port}
[web]
host = "web.invalid"
tls_certificate = "absent.pem"
tls_key = "absent-key.pem"
[[peer]]
ae_title = "SCANNER"
host = "scanner.invalid"
port = 104
query = true
[[destination]]
name = "pacs"
ae_title = "PACS"
host = "pacs.invalid"
port = 104
[[destination]]
name = "archive"
url = "http://archive.invalid/dicom-web"
"""
        )
        code, printed, error = run("doctor")
    assert (code, error) == (1, "")
    lines = printed.splitlines()
    faults = {line.split(": ", 1)[0]: line for line in lines if line.startswith("fault")}
    assert set(faults) == {
        "fault data folder", "fault receive port", "fault web port", "fault [web] TLS", "fault peer SCANNER host",
        "fault peer SCANNER", "fault destination pacs", "fault destination archive", "fault configured bundle",
    }  # fmt: skip
    assert "file is not a folder" in faults["fault data folder"]
    assert f"127.0.0.1:{port}: address already in use" in faults["fault receive port"]
    for name in ("web port", "peer SCANNER host", "peer SCANNER", "destination pacs", "destination archive"):
        assert "does not resolve" in faults[f"fault {name}"], name
    assert "there is no" in faults["fault [web] TLS"]
    assert "unexpected" not in printed
    assert not (config.parent / "other.db").exists()
    code, _, error = run("serve")
    assert (code, error) == (
        2,
        f"worker: [worker] data_dir: {config.parent}/file/data cannot be made: Not a directory\n",
    )


def test_what_is_suspended_stays_so_until_it_is_resumed(run: Run) -> None:
    assert run("suspend", "deliveries") == (0, "deliveries: suspended\n", "")
    assert run("suspend")[1] == "classification: suspended\ndeliveries: already suspended\n"
    assert run("resume", "classification", "deliveries")[1] == "classification: resumed\ndeliveries: resumed\n"
    assert run("resume", "deliveries")[1] == "deliveries: was not suspended\n"
    assert "worker suspend classification deliveries" in run("audit", "list", "--format", "json")[1]
    assert run("suspend", "receiving")[0] == 2
