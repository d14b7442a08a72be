"""Tests mirror modules: `worker/db/jobs.py` ↔ `tests/unit/db/test_jobs.py`, `monai_train/data/convert.py` ↔
`tests/unit/monai_train/data/test_convert.py`. A module without one stands here with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Module → where it is tested instead, or why there is nothing to test.
WITHOUT: dict[str, str] = {
    "worker/__init__.py": "tests/acceptance/test_wheel.py",
    "worker/query_retrieve/sub_operations.py": "tests/integration/test_query_retrieve.py, with DCMTK and Orthanc",
    "worker/web/dicomweb/routes.py": "tests/integration/test_dicomweb.py, every resource over HTTP",
    "worker/web/dicomweb/stow.py": "tests/integration/test_dicomweb_store.py, requests over HTTP",
    "worker/web/dicomweb/wado.py": "tests/integration/test_dicomweb.py, with dicomweb-client",
    "worker/receive/storage_scp.py": "tests/integration/test_storage_scp.py, with DCMTK and pynetdicom as peers",
    "worker/fetch/queries.py": "tests/integration/test_fetch.py, with Orthanc",
    "worker/fetch/retrieval.py": "tests/integration/test_fetch.py, tests/integration/test_fetch_by_get.py, with peers",
    "worker/send/hand_over.py": "tests/integration/test_hand_over.py, with Orthanc and nodes that refuse",
    "worker/send/commitment_scu.py": "tests/integration/test_commitment.py, with Orthanc",
    "worker/send/fhir_client.py": "tests/integration/test_fhir.py, with a FHIR server",
    "worker/send/stow_client.py": "tests/integration/test_stow.py, with Orthanc and a server that misbehaves",
    "worker/web/work/hand_overs.py": "tests/unit/web/api/test_hand_overs.py, tests/integration/test_hand_over.py",
    "worker/__main__.py": "every test that starts a worker runs `python -m worker`",
    "worker/decoding/decoder.py": "tests/unit/decoding/test_pool.py, with processes that die, hang and break the wire",
    "worker/decoding/tasks.py": "tests/unit/decoding/test_operations.py runs each of them",
    "worker/decoding/wire.py": "tests/unit/decoding/test_process.py reads what it writes",
    "worker/web/limits/problem.py": "tests/unit/web/test_errors.py, and tests/unit/web/test_guard.py for the headers",
    "worker/pixels/arrays.py": "names of types, which mypy checks",
    "monai_train/__init__.py": "turns telemetry off on import, as worker/__init__.py does",
    "monai_train/__main__.py": "every test that starts a process of its own runs `python -m monai_train`",
    "monai_train/cli/options.py": "tests/unit/monai_train/cli/test_app.py parses every option of every example",
}


def modules() -> Iterator[str]:
    """Every module but the empty `__init__` of a package, relative to the root."""
    for package in ("worker", "monai_train"):
        for file in sorted((ROOT / package).rglob("*.py")):
            path = file.relative_to(ROOT)
            if "bundles" not in path.parts and (file.name != "__init__.py" or len(path.parts) == 2):
                yield path.as_posix()


def mirror(module: str) -> Path:
    path = Path(module)
    inside = path.parent.relative_to("worker") if path.parts[0] == "worker" else path.parent
    return ROOT / "tests" / "unit" / inside / f"test_{path.name}"


def test_every_module_has_the_test_of_its_name_or_a_reason() -> None:
    assert [module for module in modules() if module not in WITHOUT and not mirror(module).exists()] == []
    assert [module for module in WITHOUT if mirror(module).exists()] == [], "these have a test and need no reason"


def test_the_list_of_reasons_names_modules_and_tests_that_exist() -> None:
    assert set(WITHOUT) <= set(modules())
    for reason in WITHOUT.values():
        for word in reason.replace(",", " ").split():
            if word.startswith("tests/"):
                assert (ROOT / word).exists(), word


def test_no_package_has_more_than_sixteen_modules() -> None:
    for package in ("worker", "monai_train"):
        for folder in [ROOT / package, *(ROOT / package).rglob("*/")]:
            assert len(list(folder.glob("*.py"))) <= 16, folder


def test_a_long_module_says_why() -> None:
    """Over 400 lines, the docstring of the module says why it is whole."""
    for module in modules():
        text = (ROOT / module).read_text()
        if len(text.splitlines()) > 400:
            assert "one file" in text.split('"""')[1], f"{module} has over 400 lines and its docstring does not say why"
