"""`make demo` is the first thing a stranger runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.testbed.waiting import patience

ROOT = Path(__file__).parents[2]


def test_demo_ends_well_and_leaves_pictures(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.demo"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=patience(280),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Research use only" in done.stdout
    for patient in ("DEMO-HEALTHY", "DEMO-MASS"):
        assert patient in done.stdout
    assert "Imaging Measurement Report" in done.stdout
    pictures = list(tmp_path.rglob("*.png"))
    assert len(pictures) == 2
    for path in pictures:
        assert path.name in done.stdout.replace("\n", "")
        with Image.open(path) as picture:
            assert picture.mode == "RGB"
        assert len(list(path.with_suffix("").rglob("*.dcm"))) == 48  # README.md sends them on
