"""Fixtures for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

import worker  # noqa: F401 - before anything imports openvino, which it keeps from reporting home

# The same examples on every machine, however slow it is; HYPOTHESIS_PROFILE=explore draws new ones.
_SLOW = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("same", deadline=None, derandomize=True, suppress_health_check=_SLOW)
hypothesis.settings.register_profile("explore", deadline=None, suppress_health_check=_SLOW)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(autouse=True)
def logs_of_its_own() -> Iterator[None]:
    """A command that is run in this process sets up logging, to a stream that is closed after its test."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def brain_mri_data() -> Path:
    """The folder of real data that BRAIN_MRI_DATA names; skips where there is none."""
    folder = os.environ.get("BRAIN_MRI_DATA")
    if not folder:
        pytest.skip("BRAIN_MRI_DATA does not name a folder of real data")
    return Path(folder)
