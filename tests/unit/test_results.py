from __future__ import annotations

import subprocess
import sys

import pytest

from tests.testbed.results import MODEL, MODEL_OF_LESIONS


def test_class_of_a_model_by_its_name() -> None:
    assert MODEL.class_named("meningioma").title == "Meningioma"
    with pytest.raises(KeyError):
        MODEL.class_named("ependymoma")


def test_labels_are_the_classes_and_the_lesion_of_unknown_kind() -> None:
    assert MODEL.labels == MODEL.classes
    tumour = MODEL_OF_LESIONS.class_named("tumor")
    assert [one.name for one in MODEL_OF_LESIONS.labels if one.is_lesion] == [
        "glioma", "meningioma", "pituitary", "other", "tumor",
    ]  # fmt: skip
    by_class = (0.1, 0.2, 0.3, 0.15, 0.25)
    assert MODEL_OF_LESIONS.probability_of(tumour, by_class) == pytest.approx(0.75)
    assert MODEL_OF_LESIONS.probability_of(MODEL_OF_LESIONS.class_named("other"), by_class) == 0.15


def test_values_need_neither_arrays_nor_dicom() -> None:
    # The receiver and the commands that look things up import them, and must start fast.
    program = "import sys, worker.results; print(sorted({'numpy', 'pydicom', 'sqlalchemy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
