from __future__ import annotations

import subprocess
import sys

import pytest

from worker.imports import PYDICOM_COMPANIONS, without


def test_a_module_is_absent_inside_and_back_afterwards() -> None:
    sys.modules.pop("wave", None)
    with without("wave"), pytest.raises(ImportError):
        import wave
    import wave

    assert wave.__name__ == "wave"


def test_what_is_imported_already_stays() -> None:
    import json

    with without("json"):
        import json as again
    assert again is json


def test_a_fault_inside_leaves_no_module_absent() -> None:
    sys.modules.pop("wave", None)
    with pytest.raises(RuntimeError), without("wave"):
        raise RuntimeError
    assert "wave" not in sys.modules


def test_pydicom_loads_without_its_companions() -> None:
    code = (
        "import sys\nfrom worker.imports import PYDICOM_COMPANIONS, without\n"
        "with without(*PYDICOM_COMPANIONS):\n    import pydicom\n"
        "print([name for name in PYDICOM_COMPANIONS if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
    assert "numpy" in PYDICOM_COMPANIONS
