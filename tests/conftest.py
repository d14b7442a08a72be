"""Fixtures for every test."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

import worker  # noqa: F401 - before anything imports openvino, which it keeps from reporting home
from tests.testbed import made_once
from worker import logs

# The same examples on every machine, however slow it is; HYPOTHESIS_PROFILE=explore draws new ones.
_SLOW = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=_SLOW)
hypothesis.settings.register_profile("explore", deadline=None, suppress_health_check=_SLOW)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


UNIT = Path(__file__).parent / "unit"
_UNIT_FILES_BETWEEN = 5


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files in the order in which processes of pytest-xdist take them (--no-loadscope-reorder).

    Those outside `unit` start servers and wait for them, so they lie between files of unit tests, which keep the
    processors busy meanwhile; and they begin first, because they are the longest. At the end are the shortest.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    units = sorted((file for file in files if file.is_relative_to(UNIT)), key=lambda file: -len(files[file]))
    order: list[Path] = []
    for file in (file for file in files if not file.is_relative_to(UNIT)):
        order += [file, *units[:_UNIT_FILES_BETWEEN]]
        del units[:_UNIT_FILES_BETWEEN]
    items[:] = [item for file in [*order, *units] for item in files[file]]


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not walk it again and again, a tenth of a test's time."""
    gc.freeze()
    gc.set_threshold(700, 10, 100)


@pytest.fixture(scope="session", autouse=True)
def _made_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The processes of pytest-xdist, and what they start, draw each head and train each network once."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "made-once"
    folder.mkdir(exist_ok=True)
    os.environ[made_once.FOLDER] = str(folder)


@pytest.fixture(autouse=True)
def logs_of_its_own() -> Iterator[None]:
    """A command that is run in this process sets up logging, to a stream that is closed after its test."""
    yield
    structlog.reset_defaults()
    logs._level = None


@pytest.fixture(scope="session")
def brain_mri_data() -> Path:
    """The folder of real data that BRAIN_MRI_DATA names; skips where there is none."""
    folder = os.environ.get("BRAIN_MRI_DATA")
    if not folder:
        pytest.skip("BRAIN_MRI_DATA does not name a folder of real data")
    return Path(folder)
