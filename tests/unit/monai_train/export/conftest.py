"""A bundle that was exported from the tiny run."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_train.export.export import export


@pytest.fixture(scope="session")
def exported(tiny_run: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tiny_run, tiny_data, tmp_path_factory.mktemp("exported") / "bundle", "tiny-export", "0.0.1")
