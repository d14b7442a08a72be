"""The fit of how sequences count together."""

from __future__ import annotations

import numpy as np
import pytest

from monai_train.evaluation.studies.fusion_figures import StudyCase, study_figures
from monai_train.export.study_rule import fit_study_rule
from tests.testbed.results import MODEL_OF_LESIONS
from tests.unit.monai_train.evaluation.studies.test_fusion_figures import answer
from worker.inference.bundle_schema import StudySection
from worker.inference.study.fusion import EQUAL_WEIGHTS, StudyRule


def studies(patients: int, seed: int) -> list[StudyCase]:
    """T1C tells the truth; T2 is noise of the same size."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(patients):
        lesion = bool(number % 2)
        sign = 1 if lesion else -1
        odds = sign * 2 + generator.normal(), 2.5 * generator.normal()
        told, noise = (float(1 / (1 + np.exp(-value))) for value in odds)
        found.append(StudyCase(f"p{number}", lesion, (answer("T1C", told), answer("T2", noise))))
    return found


def test_what_tells_the_truth_weighs_more_and_helps_on_other_patients() -> None:
    section = fit_study_rule(studies(80, 1), MODEL_OF_LESIONS)
    assert section is not None
    weights = section["weights"]
    assert weights["T1C"] > 3 * weights["T2"]
    rule = StudyRule(**StudySection.model_validate(section).model_dump())
    others = studies(120, 2)
    fitted, equal = (study_figures(others, MODEL_OF_LESIONS, own) for own in (rule, EQUAL_WEIGHTS))
    assert fitted is not None
    assert equal is not None
    assert (fitted.fused["balanced_accuracy"].value or 0) > (equal.fused["balanced_accuracy"].value or 0)
    assert rule.lesion_from <= EQUAL_WEIGHTS.lesion_from


@pytest.mark.parametrize("patients", [0, 10])
def test_few_patients_fit_nothing(patients: int) -> None:
    assert fit_study_rule(studies(patients, 1), MODEL_OF_LESIONS) is None


def test_contradictions_that_the_average_does_not_solve_stay_open() -> None:
    """Where the average is no guide, its limits are those of a bundle without a fit."""
    noise = [StudyCase(c.patient, i % 4 < 2, c.series) for i, c in enumerate(studies(80, 3))]
    section = fit_study_rule(noise, MODEL_OF_LESIONS)
    assert section is not None
    assert section["lesion_from"] >= 0.8
