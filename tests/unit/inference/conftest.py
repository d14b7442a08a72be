from __future__ import annotations

import shutil

import pytest


@pytest.fixture(scope="session")
def dcmcjpeg() -> None:
    if shutil.which("dcmcjpeg") is None:
        pytest.skip("dcmcjpeg (DCMTK) is not installed")
