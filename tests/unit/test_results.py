from __future__ import annotations

import subprocess
import sys

import pytest

from tests.testbed.results import MODEL


def test_class_of_a_model_by_its_name() -> None:
    assert MODEL.class_named("meningioma").title == "Meningioma"
    with pytest.raises(KeyError):
        MODEL.class_named("ependymoma")


def test_values_need_neither_arrays_nor_dicom() -> None:
    # The receiver and the commands that look things up import them, and must start fast.
    program = "import sys, worker.results; print(sorted({'numpy', 'pydicom', 'sqlalchemy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
