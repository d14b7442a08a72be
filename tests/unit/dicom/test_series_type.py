"""Header sets as vendors write them, and what each series is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from benchmarks.series_type import judge_all
from worker.dicom.image_types import UNKNOWN
from worker.dicom.series_attributes import TYPE_KEY, read_attributes
from worker.dicom.series_terms import Contrast, Sequence
from worker.dicom.series_type import SeriesType, read_series_type

AXIAL, CORONAL, SAGITTAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]
SE = {"ScanningSequence": "SE", "MRAcquisitionType": "2D"}
GR3D = {"ScanningSequence": "GR", "MRAcquisitionType": "3D"}
EPI = {"ScanningSequence": ["EP", "SE"], "MRAcquisitionType": "2D"}


def times(echo: float, repetition: float, inversion: float = 0, flip: float = 90) -> dict[str, Any]:
    found = {"EchoTime": echo, "RepetitionTime": repetition, "FlipAngle": flip}
    return found | ({"InversionTime": inversion} if inversion else {})


def dataset(**values: Any) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def image(orientation: list[float] | None = None, **values: Any) -> dict[str, Any]:
    """The stored attributes of an instance with this header."""
    return {
        "frames": 1,
        "place": [*(orientation or AXIAL), 0, 0, 0],
        TYPE_KEY: [read_attributes(dataset(**values))],
    }


def of(*headers: dict[str, Any]) -> SeriesType:
    return read_series_type([image(**header) for header in headers])


@pytest.mark.parametrize(
    ("header", "sequence"),
    [
        # Siemens
        ({"SeriesDescription": "t1_mprage_sag_p2_iso", "SequenceName": "*tfl3d1_16ns", **GR3D,
          **times(2.3, 2300, 900, 8)}, "T1"),
        ({"SeriesDescription": "t2_tirm_tra_dark-fluid", "SequenceName": "*tir2d1_16fs", **SE,
          **times(81, 9000, 2500)}, "FLAIR"),
        ({"SeriesDescription": "t2_spc_da-fl_sag", **SE, **times(390, 5000, 1800)}, "FLAIR"),
        ({"SeriesDescription": "t2_tse_tra", "SequenceName": "*tse2d1_18", **SE, **times(100, 5000)}, "T2"),
        ({"SeriesDescription": "t2_fl2d_tra_hemo", "SequenceName": "*fl2d1", "ScanningSequence": "GR",
          **times(20, 620, flip=20)}, "T2*/SWI"),
        ({"SeriesDescription": "SWI_Images", "ImageType": ["ORIGINAL", "PRIMARY", "M", "SWI"], **GR3D}, "T2*/SWI"),
        ({"SeriesDescription": "ep2d_diff_3scan_trace_p2", **EPI}, "DWI"),
        ({"SeriesDescription": "ep2d_diff_ADC", "ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"], **EPI}, "ADC"),
        ({"SeriesDescription": "AAHead_Scout_64ch-head-coil", **GR3D}, "localizer"),
        ({"SeriesDescription": "localizer", "ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"]}, "localizer"),
        ({"SeriesDescription": "tof_fl3d_tra_p2", "SequenceName": "*fi3d1r", **GR3D,
          **times(3.6, 21, flip=18)}, "angiography"),
        ({"SeriesDescription": "relCBF", "ImageType": ["DERIVED", "PRIMARY", "PERFUSION", "RELCBF"]}, "perfusion"),
        ({"SeriesDescription": "ep2d_bold_moco", **EPI}, "functional"),
        ({"SequenceName": "epfid2d1_64", "ScanningSequence": "EP", "ImageType": ["ORIGINAL", "PRIMARY", "M",
          "MOSAIC"]}, "functional"),
        ({"SeriesDescription": "gre_field_mapping", "ScanningSequence": "GR"}, "localizer"),
        # GE
        ({"SeriesDescription": "Sag T1 BRAVO", **GR3D, **times(3, 8, 450, 12)}, "T1"),
        ({"SeriesDescription": "Ax FSPGR 3D", **GR3D}, "T1"),
        ({"SeriesDescription": "Ax T2 FLAIR PROPELLER", "ScanningSequence": ["SE", "IR"],
          **times(120, 9000, 2250)}, "FLAIR"),
        ({"SeriesDescription": "Ax T1 FLAIR", "ScanningSequence": ["SE", "IR"], **times(24, 2500, 860)}, "T1"),
        ({"SeriesDescription": "Sag CUBE T2", **SE, **times(90, 2500)}, "T2"),
        ({"SeriesDescription": "AX SWAN", **GR3D, **times(24, 38, flip=15)}, "T2*/SWI"),
        ({"SeriesDescription": "3-Plane Loc SSFSE", **SE, **times(80, 1200)}, "localizer"),
        ({"SeriesDescription": "Apparent Diffusion Coefficient (mm2/s)"}, "ADC"),
        ({"SeriesDescription": "ASL (non-contrast) Raw"}, "perfusion"),
        ({"SeriesDescription": "ASSET calibration"}, "localizer"),
        # Philips
        ({"SeriesDescription": "sT1W_3D_TFE", **GR3D, **times(3.5, 7.6, flip=8)}, "T1"),
        ({"SeriesDescription": "FLAIR_longTR SENSE", **SE, **times(125, 11000, 2800)}, "FLAIR"),
        ({"SeriesDescription": "VISTA PDW", **SE, **times(20, 2500)}, "PD"),
        ({"SeriesDescription": "VEN_BOLD"}, "T2*/SWI"),
        ({"SeriesDescription": "sT2W_FFE"}, "T2*/SWI"),
        ({"SeriesDescription": "Survey_SHC", "ScanningSequence": "GR"}, "localizer"),
        ({"SeriesDescription": "SmartBrain_T1"}, "localizer"),
        ({"SeriesDescription": "DWI_SENSE", "ScanningSequence": "SE"}, "DWI"),
        ({"SeriesDescription": "T2W_TSE DRIVE", **SE, **times(80, 3000)}, "T2"),
        ({"SeriesDescription": "PCASL_GRASE"}, "perfusion"),
        # Canon, Hitachi, UIH: by times, where no name says it
        ({"SeriesDescription": "AX SE", **SE, **times(12, 500)}, "T1"),
        ({"SeriesDescription": "AX", **SE, **times(110, 4500)}, "T2"),
        ({"SeriesDescription": "AX", **SE, **times(15, 2800)}, "PD"),
        ({"SeriesDescription": "AX", "ScanningSequence": ["SE", "IR"], **times(120, 9000, 2500)}, "FLAIR"),
        ({"SeriesDescription": "AX", "ScanningSequence": "GR", **times(20, 500, flip=20)}, "T2*/SWI"),
        ({"SeriesDescription": "AX", **SE, **times(55, 1800)}, "unknown"),
        ({}, "unknown"),
        # English, German, French, Spanish, Portuguese, Italian
        ({"SeriesDescription": "T1 gewichtet axial"}, "T1"),
        ({"SeriesDescription": "Übersicht"}, "localizer"),
        ({"SeriesDescription": "repérage 3 plans"}, "localizer"),
        ({"SeriesDescription": "DIFUSIÓN axial"}, "DWI"),
        ({"SeriesDescription": "difusão"}, "DWI"),
        ({"SeriesDescription": "densità protonica"}, "PD"),
        ({"SeriesDescription": "localizador"}, "localizer"),
        # Words that look like terms and are none
        ({"SeriesDescription": "allocation"}, "unknown"),
        ({"SeriesDescription": "T12 vertebra"}, "unknown"),
        ({"SeriesDescription": "discussion"}, "unknown"),
        # Headers that declare it
        ({"AcquisitionContrast": "FLUID_ATTENUATED"}, "FLAIR"),
        ({"AcquisitionContrast": "T2", "SeriesDescription": "FLAIR"}, "FLAIR"),
        ({"DiffusionBValue": 1000.0, "SeriesDescription": "AX"}, "DWI"),
        ({"AngioFlag": "Y"}, "angiography"),
        ({"ProtocolName": "T2 TSE", "SeriesDescription": "Series 5"}, "T2"),
        ({"SeriesDescription": "Series 5", "SequenceName": "*tfl3d1"}, "T1"),
    ],
)  # fmt: skip
def test_the_sequence_of_a_vendors_header(header: dict[str, Any], sequence: str) -> None:
    found = of(header)
    assert found.sequence == sequence, found.evidence


@pytest.mark.parametrize(
    "header",
    [
        {"AcquisitionContrast": "T1", "SeriesDescription": "AX T2 FLAIR"},
        {"SeriesDescription": "AX T1", **SE, **times(110, 5000)},
        {"SeriesDescription": "AX T2", **SE, **times(10, 500)},
    ],
)
def test_a_header_and_a_name_that_contradict_each_other_are_unknown_with_both_as_evidence(
    header: dict[str, Any],
) -> None:
    found = of(header)
    assert found.sequence == Sequence.UNKNOWN
    assert any("contradiction" in line and "T1" in line for line in found.evidence)


def test_a_double_echo_is_decided_by_its_echo_and_both_together_are_unknown() -> None:
    early = {"SeriesDescription": "PD/T2 AX", **SE, **times(15, 3000)}
    late = {"SeriesDescription": "PD/T2 AX", **SE, **times(100, 3000)}
    assert (of(early).sequence, of(late).sequence) == (Sequence.PD, Sequence.T2)
    both = of(early, late)
    assert both.sequence == Sequence.UNKNOWN
    assert "images differ: PD, T2" in both.evidence


def test_the_images_without_weighting_of_a_diffusion_series_make_it_no_other() -> None:
    assert (
        of({"DiffusionBValue": 0.0, "AcquisitionContrast": "T2"}, {"DiffusionBValue": 1000.0}).sequence == Sequence.DWI
    )


@pytest.mark.parametrize(
    ("tag", "creator", "vr", "value", "sequence"),
    [
        (0x0019100C, (0x00190010, "SIEMENS MR HEADER"), "IS", 1000, Sequence.DWI),
        (0x0019100C, (0x00190010, "ANOTHER VENDOR"), "IS", 1000, Sequence.UNKNOWN),
        (0x00431039, (0x00430010, "GEMS_PARM_01"), "IS", [1000001000, 8, 0, 0], Sequence.DWI),
        (0x00431039, (0x00430010, "GEMS_PARM_01"), "IS", [0, 8, 0, 0], Sequence.UNKNOWN),
        (0x20011003, (0x20010010, "Philips Imaging DD 001"), "FL", 800.0, Sequence.DWI),
    ],
)
def test_the_b_values_of_vendors(tag: int, creator: tuple[int, str], vr: str, value: Any, sequence: Sequence) -> None:
    ds = dataset(SeriesDescription="AX")
    ds.add_new(creator[0], "LO", creator[1])
    ds.add_new(tag, vr, value)
    assert read_series_type([{TYPE_KEY: [read_attributes(ds)]}]).sequence == sequence


@pytest.mark.parametrize(
    ("header", "echo_planar"),
    [
        ({"ScanningSequence": ["EP", "SE"]}, True),
        ({"EchoPlanarPulseSequence": "YES"}, True),
        ({"EchoPlanarPulseSequence": "NO", "EchoPulseSequence": "GRADIENT"}, False),
        ({"ScanningSequence": "GR", "EchoTrainLength": 43, **times(30, 2000, flip=75)}, True),  # Philips
        (
            {"ScanningSequence": "GR", "EchoTrainLength": 240, **times(3.5, 8, flip=8)},
            False,
        ),  # T1-TFE: its turbo factor
        ({"ScanningSequence": "GR", "SequenceName": "FEEPI"}, True),
        ({"SequenceName": "epse2d1_72"}, True),
        ({"ScanningSequence": "SE", "SeriesDescription": "T2 TSE"}, False),
    ],
)
def test_echo_planar_imaging_by_any_sign_of_it(header: dict[str, Any], echo_planar: bool) -> None:
    assert of(header).is_echo_planar == echo_planar


@pytest.mark.parametrize(
    ("header", "contrast"),
    [
        ({"ContrastBolusAgent": "Gadovist"}, "with"),
        ({"ContrastBolusAgent": "NONE"}, "unknown"),
        ({"ContrastBolusAgentAdministered": "NO"}, "without"),
        ({"SeriesDescription": "T1 post Gd"}, "with"),
        ({"SeriesDescription": "AX T1 +C"}, "with"),
        ({"SeriesDescription": "t1_mpr_tra_KM"}, "with"),
        ({"SeriesDescription": "T1 nach KM"}, "with"),
        ({"SeriesDescription": "T1 ohne KM"}, "without"),
        ({"SeriesDescription": "T1 sans injection"}, "without"),
        ({"SeriesDescription": "T1 après injection"}, "with"),
        ({"SeriesDescription": "T1 sin contraste"}, "without"),
        ({"SeriesDescription": "T1 com contraste"}, "with"),
        ({"SeriesDescription": "T1 senza mdc"}, "without"),
        ({"SeriesDescription": "T1 dopo mdc"}, "with"),
        ({"SeriesDescription": "AX T1 without contrast"}, "without"),
        ({"SeriesDescription": "T1 pre"}, "without"),
        ({"SeriesDescription": "AX T1 PRE-GAD"}, "without"),
        ({"SeriesDescription": "T1 C-SPINE"}, "unknown"),
        ({"SeriesDescription": "POST OP T1"}, "unknown"),
        ({"SeriesDescription": "T1 posterior fossa"}, "unknown"),
        ({"SeriesDescription": "T2 post fossa"}, "unknown"),
        ({"SeriesDescription": "T1 pre", "ContrastBolusAgent": "Dotarem"}, "unknown"),
        ({"SeriesDescription": "T1 AX"}, "unknown"),
    ],
)
def test_the_contrast_agent(header: dict[str, Any], contrast: str) -> None:
    found = of(header)
    assert found.contrast_agent == contrast, found.evidence


def test_a_contradiction_about_the_contrast_agent_is_in_the_evidence() -> None:
    found = of({"SeriesDescription": "T1 pre", "ContrastBolusAgent": "Dotarem"})
    assert found.contrast_agent == Contrast.UNKNOWN
    assert {"contrast bolus agent: with contrast agent", "SeriesDescription 'pre': without contrast agent"} < set(
        found.evidence
    )


def _region(value: str, meaning: str) -> list[Dataset]:
    return [dataset(CodeValue=value, CodingSchemeDesignator="SRT", CodeMeaning=meaning)]


@pytest.mark.parametrize(
    ("header", "body_part"),
    [
        ({"BodyPartExamined": "BRAIN"}, "BRAIN"),
        ({"StudyDescription": "LEFT WRIST"}, "WRIST"),
        ({"ProtocolName": "KNEE"}, "KNEE"),
        ({"StudyDescription": "IRM GENOU"}, "KNEE"),
        ({"StudyDescription": "MRT Schädel"}, "HEAD"),
        ({"ReceiveCoilName": "8HRBRAIN"}, "BRAIN"),
        ({"ReceiveCoilName": "SENSE-Knee-8"}, "KNEE"),
        ({"ReceiveCoilName": "Body"}, UNKNOWN),
        ({"ReceiveCoilName": "KNEE", "StudyDescription": "MR BRAIN child"}, "BRAIN"),
        ({"AnatomicRegionSequence": _region("T-A0100", "Brain")}, "BRAIN"),
        ({"AnatomicRegionSequence": _region("X-1", "Knee joint")}, "KNEE"),
        ({"BodyPartExamined": "BRAIN", "StudyDescription": "MR BRAIN AND CERVICAL SPINE"}, "BRAIN"),
        ({"BodyPartExamined": "BRAIN", "StudyDescription": "CERVICAL SPINE"}, "BRAIN"),
        ({"BodyPartExamined": "BRAIN", "StudyDescription": "LEFT WRIST"}, UNKNOWN),
        ({"BodyPartExamined": "BRAIN", "SeriesDescription": "SAG KNEE"}, UNKNOWN),
        ({"StudyDescription": "femoral head"}, "HIP"),
        ({"StudyDescription": "DCM2NIIX regression test"}, UNKNOWN),
    ],
)
def test_the_body_part_by_all_evidence(header: dict[str, Any], body_part: str) -> None:
    found = of(header)
    assert found.body_part == body_part, found.evidence
    assert bool(found.contradicted_parts) == any("contradiction: body part" in line for line in found.evidence)


@pytest.mark.parametrize(
    ("header", "derived"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M"]}, ""),
        ({"ImageType": ["DERIVED", "SECONDARY", "M", "NORM"]}, "derived"),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "FA"]}, "map"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "phase"),
        ({"ComplexImageComponent": "PHASE"}, "phase"),
        ({"VolumeBasedCalculationTechnique": "MAX_IP"}, "projection"),
        ({"SamplesPerPixel": 3}, "colour"),
        ({"PixelPresentation": "TRUE_COLOR"}, "colour"),
    ],
)
def test_what_an_image_was_made_into(header: dict[str, Any], derived: str) -> None:
    assert of(header).derived == derived


def test_few_slices_in_planes_that_are_not_parallel_are_a_localizer() -> None:
    planes = [AXIAL, CORONAL, SAGITTAL]
    scout = read_series_type([image(plane, SeriesDescription="T2") for plane in planes for _ in range(5)])
    assert (scout.sequence, scout.plane) == (Sequence.LOCALIZER, "mixed")
    many = read_series_type([image(plane, SeriesDescription="T2") for plane in planes for _ in range(50)])
    assert (many.sequence, many.plane) == (Sequence.T2, "mixed")


@pytest.mark.parametrize(("orientation", "plane"), [(AXIAL, "axial"), (CORONAL, "coronal"), (SAGITTAL, "sagittal")])
def test_the_plane_is_the_nearest(orientation: list[float], plane: str) -> None:
    assert read_series_type([image(orientation)]).plane == plane


def test_instances_of_an_earlier_version_say_so() -> None:
    before = {"image_type": ["DERIVED", "ADC"], "scanning_sequence": ["EP"], "body_part": "BRAIN", "frames": 1}
    found = read_series_type([before])
    assert (found.sequence, found.body_part) == (Sequence.ADC, "BRAIN")
    assert found.evidence[0].startswith("stored by an earlier version")


def test_no_image_is_unknown_and_evidence_is_bounded() -> None:
    assert read_series_type([]) == SeriesType()
    many = [
        {TYPE_KEY: [{"ImageType": [f"VALUE{number}"], "BodyPartExamined": [f"P{number}"]}]} for number in range(2000)
    ]
    assert len(read_series_type(many).evidence) <= 24


def test_real_series_are_what_is_expected_of_them(brain_mri_data: Path) -> None:
    folder = brain_mri_data / "mr-series" / "real"
    if not (folder / "series.csv").is_file():
        pytest.skip("BRAIN_MRI_DATA has no mr-series/real/series.csv")
    assert [series.what for series in judge_all(folder) if not series.is_as_expected] == []


@pytest.mark.parametrize(
    ("series_type", "words"),
    [
        (SeriesType(), None),
        (SeriesType(plane="axial"), "sequence unknown, axial"),
        (SeriesType(Sequence.T1, Contrast.WITH, "axial"), "T1, with contrast agent, axial"),
    ],
)
def test_words_for_the_report(series_type: SeriesType, words: str | None) -> None:
    assert series_type.in_words == words
