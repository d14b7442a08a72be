"""A bundle that was exported from the tiny run."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_train.export.export import export
from tests.testbed.made_once import copied


@pytest.fixture(scope="session")
def exported(tiny_run: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("exported") / "bundle"
    return copied("tiny-export", bundle, lambda out: export(tiny_run, tiny_data, out, "tiny-export", "0.0.1"))


@pytest.fixture(scope="session")
def exported_by_sequence(sequences_run: Path, sequences_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of format 2."""
    bundle = tmp_path_factory.mktemp("exported") / "bundle"
    return copied(
        "tiny-sequences", bundle, lambda out: export(sequences_run, sequences_data, out, "tiny-sequences", "0.0.1")
    )
