"""A classifier of MONAI's tutorial, trained once, and the bundle that it was imported to."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_train.export.imported.import_model import import_model
from tests.testbed import tutorial
from tests.testbed.made_once import copied


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tutorial.Made:
    return tutorial.make(tmp_path_factory.mktemp("tutorial"))


@pytest.fixture(scope="session")
def imported(made: tutorial.Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("imported") / "bundle"
    return copied("imported", bundle, lambda out: import_model(made.checkpoint, made.model, made.dicom, out))
