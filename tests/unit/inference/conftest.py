from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.testbed.tiny_bundle import make_tiny_bundle
from worker.inference.bundle import Bundle, load_bundle


@pytest.fixture(scope="session")
def dcmcjpeg() -> None:
    if shutil.which("dcmcjpeg") is None:
        pytest.skip("dcmcjpeg (DCMTK) is not installed")


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle; copy it before you change it."""
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def bundle(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder)
