"""What a process imports at its start: its time and its memory, counted in a way that no machine changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.testbed.imported import imports_of_command, imports_of_role
from tests.testbed.instances import write_series
from tests.testbed.worker_process import WorkerProcess

TRAINING = {"torch", "monai", "sklearn", "scipy", "matplotlib", "nncf", "optuna", "tensorboard", "nibabel"}
MODEL = {"openvino", "highdicom", "safetensors"}
WEB = {"fastapi", "starlette", "uvicorn", "jinja2", "markdown_it"}
PIXELS = {"numpy", "PIL", "gdcm", "openjpeg", "rle", "jpeg_ls"}
MIGRATION = {"alembic", "mako"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a worker whose database is ready."""
    worker = WorkerProcess(tmp_path_factory.mktemp("start"))
    config = worker.write_config()
    assert worker.run("migrate").returncode == 0
    return config


def loaded(imports: dict[str, float]) -> set[str]:
    """The packages of which a part was imported: a name alone is also told of one that could not be found."""
    return {name.partition(".")[0] for name in imports if "." in name}


def test_a_look_up_needs_neither_dicom_nor_arrays(config: Path) -> None:
    imports = imports_of_command(config, "results", "list")
    assert len(imports) < 600  # 538
    found = loaded(imports)
    assert "sqlalchemy" in found
    unwanted = TRAINING | MODEL | WEB | PIXELS | MIGRATION | {"pydicom", "pynetdicom", "apscheduler", "requests"}
    assert found & (unwanted | {"structlog", "pydantic_settings"}) == set()


def test_the_receiver_loads_no_model_and_no_codec(config: Path, tmp_path: Path) -> None:
    imports = imports_of_role(config, "receive", tmp_path / "log", '"receiving"')
    found = loaded(imports)
    assert "pynetdicom" in found
    assert found & (TRAINING | MODEL | WEB | PIXELS | MIGRATION | {"requests", "rich", "pydantic_settings"}) == set()
    assert "worker.query_retrieve.scp" not in imports, "no peer may retrieve"
    order = [name for name in imports if name in ("worker.receive.storage_scp", "apscheduler.schedulers.background")]
    assert order == ["worker.receive.storage_scp", "apscheduler.schedulers.background"], "the port opens between them"
    assert len(imports) < 800  # 735


def test_serving_a_model_needs_no_torch(config: Path, tmp_path: Path) -> None:
    found = loaded(imports_of_role(config, "infer", tmp_path / "log", '"ready to classify"'))
    assert "openvino" in found
    assert found & (TRAINING | WEB | MIGRATION | {"pynetdicom"}) == set()


def test_classifying_a_folder_loads_no_dask(config: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "in", 1)
    imports = imports_of_command(config, "classify", str(tmp_path / "in"), "--out", str(tmp_path / "out"))
    assert "worker.ops.classify_folder" in imports
    assert {"dask", "distributed", "tornado", "worker.cluster", "worker.ops.bulk"} & imports.keys() == set()
