"""`worker backup` and `worker restore` say what they copied; what they copy: tests/unit/ops/test_backup.py."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from tests.testbed.command import Run
from tests.testbed.instances import mr_instance, received
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.storage.keeper import InstanceKeeper


def test_a_backup_counts_its_files_and_reports_a_damaged_one(run: Run, settings: Settings, tmp_path: Path) -> None:
    database = Database(settings.database.url)
    keeper = InstanceKeeper(database, settings.worker.data_dir, lambda: datetime.now(UTC), 0)
    for number in (1, 2):
        keeper.keep(received(mr_instance(number)))
    keeper.close()
    database.close()
    copy = tmp_path / "copy"
    assert run("backup", str(copy)) == (0, f"database and 2 files copied to {copy}\n", "")
    assert run("backup", str(copy)) == (2, "", f"worker: {copy} is not empty\n")

    next((settings.worker.data_dir / "instances").rglob("*.dcm")).write_bytes(b"damaged")
    code, printed, error = run("backup", str(tmp_path / "second"))
    assert (code, printed) == (1, f"database and 1 file copied to {tmp_path / 'second'}\n")
    assert error == "worker: 1 file missing or damaged, and therefore not in the copy\n"

    shutil.rmtree(settings.worker.data_dir)
    assert run("restore", str(copy)) == (0, f"database and 2 files restored from {copy}\n", "")
    assert run("restore", str(copy))[0] == 2


def test_a_restored_trail_is_intact_and_resumes(run: Run, settings: Settings, tmp_path: Path) -> None:
    run("tokens", "add", "--role", "read")
    assert run("backup", str(tmp_path / "copy"))[0] == 0
    shutil.rmtree(settings.worker.data_dir)
    assert run("restore", str(tmp_path / "copy"))[0] == 0
    code, _, error = run("audit", "verify", "--format", "json")
    assert (code, error) == (0, "here: 2 records, intact\n")  # the token, and the import; the backup is not in its copy
    [file] = settings.audit_dir.glob("*.audit")
    assert file.stat().st_mode & 0o777 == 0o600
