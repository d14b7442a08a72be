from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.testbed.instances import mr_instance, received
from worker.config.sections import EligibilitySection
from worker.dicom.series_attributes import TYPE_KEY
from worker.dicom.series_type import read_series_type
from worker.receive.eligibility import SeriesRefusal
from worker.receive.eligibility import check_eligibility as check_with_type
from worker.storage.acceptance import PRODUCED_KEY, instance_path, read_instance

ATTRIBUTES: dict[str, Any] = {
    "modality": "MR",
    "image_type": ["ORIGINAL", "PRIMARY", "M"],
    "scanning_sequence": ["SE"],
    "body_part": "BRAIN",
    "frames": 1,
}


def check_eligibility(attributes: Sequence[dict[str, Any]], rules: EligibilitySection) -> SeriesRefusal | None:
    return check_with_type(attributes, rules, read_series_type(attributes))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"body_part": ""}, None),
        ({"modality": "CT"}, "modality"),
        ({"modality": ""}, "modality"),
        ({"modality": "mr"}, None),
        ({PRODUCED_KEY: True}, "produced"),
        ({"image_type": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "image-type"),
        ({"image_type": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "image-type"),
        ({"scanning_sequence": ["EP", "GR"]}, "scanning-sequence"),
        ({"body_part": "KNEE"}, "body-part"),
    ],
)
def test_one_instance_that_breaks_a_rule_refuses_the_series(change: dict[str, Any], reason: str | None) -> None:
    refused = check_eligibility([ATTRIBUTES, ATTRIBUTES, ATTRIBUTES | change], EligibilitySection())
    assert (refused.reason if refused else None) == reason


def test_slices_are_counted_over_frames() -> None:
    rules = EligibilitySection(minimum_slices=3, maximum_slices=20)
    assert check_eligibility([ATTRIBUTES] * 2, rules).reason == "too-few-slices"  # type: ignore[union-attr]
    assert check_eligibility([ATTRIBUTES | {"frames": 20}], rules) is None
    assert check_eligibility([ATTRIBUTES | {"frames": 21}], rules).reason == "too-many-slices"  # type: ignore[union-attr]


def _with_type(**kind: list[str]) -> list[dict[str, Any]]:
    return [ATTRIBUTES | {TYPE_KEY: [kind]}] * 3


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ({"FrameType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]}, "image-type"),
        ({"FrameType": ["DERIVED", "PRIMARY", "DIFFUSION", "TENSOR_B0"]}, "image-type"),
        ({"ComplexImageComponent": ["PHASE"]}, "image-type"),
        ({"ComplexImageComponent": ["MAGNITUDE"]}, None),
        ({"VolumeBasedCalculationTechnique": ["MAX_IP"]}, "image-type"),
        ({"EchoPlanarPulseSequence": ["YES"]}, "scanning-sequence"),
        ({"AcquisitionContrast": ["DIFFUSION"]}, "sequence"),
        ({"AcquisitionContrast": ["PERFUSION"]}, "sequence"),
        ({"AcquisitionContrast": ["T1"]}, None),
        ({"SamplesPerPixel": ["3"]}, "colour"),
        ({"PixelPresentation": ["TRUE_COLOR"]}, "colour"),
        ({"SeriesDescription": ["survey"]}, "localizer"),
        ({"StudyDescription.part": ["WRIST"]}, "body-part"),
        ({"ProtocolName.part": ["KNEE"]}, "body-part"),
        ({"ReceiveCoilName": ["KNEE"]}, "body-part"),
        ({"StudyDescription.part": ["HEAD"]}, None),
        ({"AnatomicRegionSequence": ["BRAIN"]}, None),
    ],
)
def test_the_series_type_decides_too(kind: dict[str, list[str]], reason: str | None) -> None:
    images = [image | {"body_part": ""} for image in _with_type(**kind)]
    refused = check_eligibility(images, EligibilitySection())
    assert (refused.reason if refused else None) == reason, refused


@pytest.mark.parametrize("part", ["INTRACRANIAL", "SELLA", "IAC", "ORBIT", "CEREBELLUM", "HEAD_NECK", "Brain Stem"])
def test_the_terms_of_the_head_are_accepted_in_any_spelling(part: str) -> None:
    assert check_eligibility([ATTRIBUTES | {"body_part": part}] * 3, EligibilitySection()) is None


def test_rules_that_are_empty_refuse_nothing() -> None:
    rules = EligibilitySection(
        refuse_image_types=(), refuse_scanning_sequences=(), refuse_sequences=(), body_parts=(), modalities=("mr",)
    )
    images = _with_type(FrameType=["ADC"], EchoPlanarPulseSequence=["YES"], SeriesDescription=["survey"])
    assert check_eligibility([image | {"body_part": "KNEE"} for image in images], rules) is None


def test_planes_that_are_not_parallel_are_refused_before_a_job_is_queued() -> None:
    planes = [[1, 0, 0, 0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, -1, 0, 0, 0], [0, 1, 0, 0, 0, -1, 0, 0, 0]]
    scout = [ATTRIBUTES | {"place": place} for place in planes]
    assert check_eligibility(scout, EligibilitySection()).reason == "localizer"  # type: ignore[union-attr]
    assert check_eligibility(scout * 40, EligibilitySection()).reason == "mixed-planes"  # type: ignore[union-attr]


def _refusal(**changes: Any) -> str | None:
    """Why a series of three received images with these attributes is refused."""
    images = [read_instance(received(mr_instance(n, **changes)), instance_path).attributes for n in (1, 2, 3)]
    refusal = check_eligibility(images, EligibilitySection())
    return refusal.reason if refusal else None


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        *(({"SeriesDescription": name}, "sequence") for name in (
            "Fractional Aniso.", "Average DC", "B1000t", "IVIM", "mean diffusivity", "rBF", "Ktrans", "t-Map",
            "Mean_&_t-Maps", "s3DI_MC_HR",
        )),
        *(({"SeriesDescription": name}, "localizer") for name in (
            "Lokalizer", "AutoAlign Head", "Calibration Scan", "ASSET Cal", "Ref_Head_24", "SENSE ref", "B0 map",
            "gre_field_mapping", "prescan",
        )),
        *(({"SeriesDescription": name}, None) for name in ("AX T1 ASSET", "Reference T1", "T1 tagged")),
        *(({"ImageType": ["DERIVED", "PRIMARY", *value]}, "image-type") for value in (
            ["PHASE_MAP", "FFE"], ["VELOCITY MAP", "M"], ["M", "T1_MAP"], ["FIELD_MAP"], ["FMRI"], ["I", "SE"],
        )),
        *(({"BodyPartExamined": value}, None) for value in (
            "BRAIN W/O", "HEADBRAIN", "Head-Brain", "TETE", "KOPF", "SCHAEDEL", "CABEZA", "ENCEFALO", "MR BRAIN",
        )),
        *(({"BodyPartExamined": value}, "body-part") for value in ("BRAIN + C-SPINE", "KOPFGELENK", "KNIE", "LEG")),
        *(({"BodyPartExamined": None, "StudyDescription": text}, "body-part") for text in (
            "IRM doigt", "Whole body", "Ganzkörper-MRT", "Brachial plexus",
        )),
    ],
)  # fmt: skip
def test_spellings_of_vendors_and_languages(change: dict[str, Any], reason: str | None) -> None:
    if not str(change).isascii():
        change = change | {"SpecificCharacterSet": "ISO_IR 192"}
    assert _refusal(**change) == reason


def test_a_declared_functional_series_is_none_by_its_name() -> None:
    images = [{TYPE_KEY: [{"ImageType": ["FMRI"], "SeriesDescription": ["T1"]}]}]
    assert str(read_series_type(images).sequence) == "functional"
