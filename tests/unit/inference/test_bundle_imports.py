"""The paths that bundles name in their configurations; a bundle that is in use would no longer load if they moved."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from worker.inference.bundle import ALLOWED_TARGETS, default_bundle, load_bundle
from worker.inference.run_bundle import MONAI_ENTRY

PATHS = (
    "worker.inference.preprocess.Preprocessing",
    "worker.inference.run_bundle.run_bundle",
    "worker.inference.efficientnet_lite.EfficientNetLite0",
)


@pytest.mark.parametrize("path", PATHS)
def test_the_import_paths_that_bundles_name_exist(path: str) -> None:
    module, _, name = path.rpartition(".")
    named = getattr(importlib.import_module(module), name)
    assert callable(named)
    assert (named.__module__, named.__qualname__) == (module, name)


def test_the_allow_list_names_these_paths_and_no_other_of_ours() -> None:
    assert {path for path in ALLOWED_TARGETS if path.startswith("worker.")} == set(PATHS)
    assert MONAI_ENTRY["run"]["_target_"] == "worker.inference.run_bundle.run_bundle"


def test_every_path_that_the_installed_bundle_names_exists() -> None:
    folder = default_bundle()
    load_bundle(folder)
    configuration = json.loads((folder / "configs/inference.json").read_bytes())
    named = set(_targets(configuration))
    assert "worker.inference.preprocess.Preprocessing" in named
    for path in named:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name)


def _targets(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "_target_" in value:
            yield value["_target_"]
        value = list(value.values())
    for inner in value if isinstance(value, list) else ():
        yield from _targets(inner)
