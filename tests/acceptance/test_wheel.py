"""The wheel is the product: it must serve where there is no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.testbed import dcmtk, worker_process
from tests.testbed.waiting import patience

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)],
        capture_output=True, text=True, timeout=patience(280),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_bundle_and_migrations(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert any(name.startswith("worker/migrations/versions/") for name in names)
    bundles = {name.removesuffix("worker.json") for name in names if name.endswith("/worker.json")}
    assert len(bundles) == 1
    (bundle,) = bundles
    for part in ("configs/inference.json", "models/model.safetensors", "models/model.xml", "models/model.bin"):
        assert bundle + part in names
    assert {"worker/web/templates/base.html", "worker/web/static/htmx.min.js"} <= names
    assert "worker/web/static/ohif.js" in names
    assert not any(name.startswith("tests/") for name in names)


def test_worker_from_the_wheel_serves_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Its own files come from the wheel, its dependencies from this environment: torch takes minutes to install."""
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)],
        check=True, timeout=patience(120),
    )  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = subprocess.run(
        [sys.executable, "-c", "import worker; print(worker.__file__)"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(site)
    shown = worker_process.run_worker("--help", cwd=tmp_path, environment=environment)
    assert shown.returncode == 0
    assert "serve" in shown.stdout
    with worker_process.running(tmp_path / "worker", environment={"PYTHONPATH": str(site)}) as worker:
        dcmtk.echoscu(worker.port)
        assert worker.stop() == 0
