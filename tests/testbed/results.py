"""Results and source headers to report on: no pixels, no network, nothing random."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage

from worker.dicom.standard import derive_uid
from worker.inference.illustrated import IllustratedResult, KeyImage
from worker.inference.study.fusion import EQUAL_WEIGHTS
from worker.reporting.sr_document import Identity
from worker.results import (
    CodedConcept,
    Contribution,
    ModelClass,
    ModelIdentity,
    ReportedSeries,
    ReportedStudy,
    ResultStatus,
    SeriesAnswer,
    SliceResult,
    StudyResult,
)

BRAIN = CodedConcept("12738006", "SCT", "Brain")
MODEL = ModelIdentity(
    name="brain-mri-tumour",
    version="0.1.0",
    manufacturer="Test bench",
    family="ResNet-18",
    sha256="0123456789abcdef" * 4,
    classes=(
        ModelClass("glioma", "Glioma", True, CodedConcept("393564001", "SCT", "Glioma"), BRAIN),
        ModelClass(
            "meningioma", "Meningioma", True, CodedConcept("302820008", "SCT", "Intracranial meningioma"), BRAIN
        ),
        ModelClass(
            "pituitary",
            "Pituitary tumour",
            True,
            CodedConcept("254956000", "SCT", "Pituitary adenoma"),
            CodedConcept("56329008", "SCT", "Pituitary"),
        ),
        ModelClass("notumor", "No tumour", False, None, BRAIN),
    ),
    parameters="temperature 1.4, top 3 slices, minimum probability 0.5",
    limits="Trained on contrast-enhanced T1 slices of adults; other contrasts are outside what it learned.",
)
# A model that also knows lesions that are no tumour, and names a kind only where that is reliable.
MODEL_OF_LESIONS = replace(
    MODEL,
    classes=(
        *MODEL.classes[:3],
        ModelClass("other", "Other lesion", False, CodedConcept("301766008", "SCT", "Lesion of Brain"), BRAIN),
        MODEL.classes[3],
    ),
    undetermined=ModelClass(
        "tumor", "Tumour, kind not determined", True, CodedConcept("126952004", "SCT", "Neoplasm of brain"), BRAIN
    ),
)
CREATED_AT = datetime(2026, 11, 21, 9, 30, 15, 123000, tzinfo=timezone(timedelta(hours=1)))
# What the builders take beside the result, the model and the sources.
ARGUMENTS: dict[str, Any] = {
    "series_instance_uid": derive_uid("test", "our series"),
    "sop_instance_uid": derive_uid("test", "our object"),
    "created_at": CREATED_AT,
    "worker_version": "0.1.0",
}


def source_headers(count: int = 8, **attributes: Any) -> list[Dataset]:
    """Headers of `count` MR images of one series; `attributes` are set on each, None leaves one out."""
    return [_header(MRImageStorage, number, attributes) for number in range(1, count + 1)]


def enhanced_header(frames: int = 8, **attributes: Any) -> list[Dataset]:
    """The header of one Enhanced MR image of `frames` frames."""
    return [_header(EnhancedMRImageStorage, 1, {"NumberOfFrames": frames, **attributes})]


def classified(
    sources: list[Dataset], label: str = "glioma", probability: float = 0.97, model: ModelIdentity = MODEL
) -> IllustratedResult:
    """A classified series whose middle three slices decide; `probability` is that of the label."""
    share = {one.name: model.probability_of(model.class_named(label), _only(one, model)) for one in model.classes}
    probabilities = {
        name: probability / sum(share.values()) if part else (1 - probability) / list(share.values()).count(0)
        for name, part in share.items()
    }
    slices = _slices(sources, tuple(probabilities.values()))
    return IllustratedResult(
        ResultStatus.CLASSIFIED,
        label,
        probability,
        probabilities,
        None,
        None,
        slices,
        key_image=key_image(len(slices) // 2),
    )


def _only(certain: ModelClass, model: ModelIdentity) -> list[float]:
    return [float(one == certain) for one in model.classes]


def not_assessed(sources: list[Dataset]) -> IllustratedResult:
    """A series the model may not judge; its slices have scores that must not be reported."""
    slices = _slices(sources, (0.4, 0.3, 0.2, 0.1))
    return IllustratedResult(
        ResultStatus.NOT_ASSESSED,
        None,
        None,
        {},
        "out-of-distribution",
        "The images look unlike the head MRI that the model was trained on.",
        slices,
        key_image=key_image(len(slices) // 2, activation=False),
    )


def key_image(slice_index: int, rows: int = 220, columns: int = 200, *, activation: bool = True) -> KeyImage:
    """A grey disc with a bright spot, and a map that peaks on the spot."""
    y, x = np.mgrid[0:rows, 0:columns]
    disc = np.hypot((y - rows / 2) / rows, (x - columns / 2) / columns)
    spot = np.exp(-(((y - rows * 0.4) / rows) ** 2 + ((x - columns * 0.62) / columns) ** 2) / 0.008)
    grey = np.where(disc < 0.45, 90 + 40 * np.cos(disc * 25), 0) + 110 * spot
    return KeyImage(slice_index, grey.clip(0, 255).astype(np.uint8), spot.astype(np.float32) if activation else None)


def _slices(sources: list[Dataset], probabilities: tuple[float, ...]) -> tuple[SliceResult, ...]:
    frames = int(sources[0].get("NumberOfFrames", 0))
    number_of = frames or len(sources)
    middle = number_of // 2
    return tuple(
        SliceResult(
            sop_class_uid=sources[0 if frames else i].SOPClassUID,
            sop_instance_uid=sources[0 if frames else i].SOPInstanceUID,
            frame_number=i + 1 if frames else None,
            position_mm=6.0 * i,
            probabilities=probabilities,
            in_distribution=True,
            deciding=abs(i - middle) <= 1,
        )
        for i in range(number_of)
    )


def _header(sop_class_uid: str, number: int, attributes: dict[str, Any]) -> Dataset:
    ds = Dataset()
    values: dict[str, Any] = {
        "SOPClassUID": sop_class_uid,
        "SOPInstanceUID": derive_uid("test", "source", str(number)),
        "StudyInstanceUID": derive_uid("test", "study"),
        "SeriesInstanceUID": derive_uid("test", "series"),
        "FrameOfReferenceUID": derive_uid("test", "frame of reference"),
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientName": "Phantom^Template",
        "PatientID": "PHANTOM-1",
        "PatientBirthDate": "19700101",
        "PatientSex": "F",
        "PatientAge": "055Y",
        "StudyDate": "20261121",
        "StudyTime": "080000",
        "StudyID": "1",
        "AccessionNumber": "A0001",
        "ReferringPhysicianName": "Referrer^Any",
        "Modality": "MR",
        "SeriesNumber": 3,
        "InstanceNumber": number,
        "Rows": 256,
        "Columns": 256,
        **attributes,
    }
    for keyword, value in values.items():
        if isinstance(value, str | bytes):  # as they are, malformed ones too; text as UTF-8
            raw = value if isinstance(value, bytes) else value.encode()
            raw += b" " * (len(raw) % 2)
            tag = Tag(keyword)
            ds[tag] = RawDataElement(tag, dictionary_VR(tag), len(raw), raw, 0, False, True)
        elif value is not None:
            setattr(ds, keyword, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of character sets that do not exist
        file = BytesIO()
        dcmwrite(file, ds, implicit_vr=False, little_endian=True)
        file.seek(0)
        return dcmread(file, force=True)  # values are decoded when they are asked for, as from a real file


def series_said(
    number: int | None,
    label: str | None,
    probability: float = 0.9,
    *,
    description: str = "AX T1 POST",
    reason: str | None = None,
    weight: float = 0.0,
    contradicts: bool = False,
    sequence: str | None = "T1C",
    images: int = 8,
    model: ModelIdentity = MODEL,
) -> ReportedSeries:
    """A series of a study with its answer; without a label it is not assessed, and without images it was refused."""
    uid = derive_uid("test", "series", str(number), description)
    shown = [
        _header(MRImageStorage, index, {"SOPInstanceUID": derive_uid(uid, str(index)), "SeriesInstanceUID": uid})
        for index in range(1, images + 1)
    ]
    by_class: dict[str, float] = {}
    slices: tuple[SliceResult, ...] = ()
    if label is not None:
        by_class = dict(classified(shown, label, probability, model).probabilities)
        slices = classified(shown, label, probability, model).slices
    lesion = sum(by_class[item.name] for item in model.classes if item.is_lesion) if by_class else None
    answer = SeriesAnswer(uid, number, sequence, "axial", label, reason, lesion, by_class)
    return ReportedSeries(
        contribution=Contribution(answer, weight, contradicts),
        description=description,
        contrast_agent="with" if sequence == "T1C" else "unknown",
        images=tuple((str(image.SOPClassUID), str(image.SOPInstanceUID)) for image in shown),
        slices=len(slices),
        key_slices=tuple((index, item) for index, item in enumerate(slices, 1) if item.deciding),
    )


def reported_study(
    series: Sequence[ReportedSeries],
    label: str | None = "glioma",
    deciding: int | None = 0,
    *,
    probability: float = 0.93,
    reason: str | None = None,
    detail: str | None = None,
    contradiction: str | None = None,
    model: ModelIdentity = MODEL,
) -> ReportedStudy:
    """A study of these series; `deciding` is the index of the series that decides."""
    only = series[deciding].contribution.answer if deciding is not None else None
    result = StudyResult(
        status=ResultStatus.CLASSIFIED if label else ResultStatus.NOT_ASSESSED,
        label=label,
        probability=probability if label else None,
        probabilities=only.probabilities if only else {},
        lesion_probability=only.lesion_probability if only else None,
        reason=reason,
        detail=detail,
        contradiction=contradiction,
        contributions=tuple(item.contribution for item in series),
        deciding=only.series if only else None,
    )
    return ReportedStudy(derive_uid("test", "study"), result, tuple(series), EQUAL_WEIGHTS.in_words)


STUDY_IDENTITY = Identity(
    series_instance_uid=ARGUMENTS["series_instance_uid"],
    sop_instance_uid=ARGUMENTS["sop_instance_uid"],
    series_number=1_000_000_001,
    series_description="AI brain MRI summary",
    created_at=CREATED_AT,
    worker_version="0.1.0",
)
_PROTOCOL = ("AX T1", "AX T2", "AX FLAIR", "AX DWI b1000", "ADC", "SWI", "AX T1 POST", "SAG T1 POST", "COR T1 POST")
STUDIES: dict[str, ReportedStudy] = {
    "one series": reported_study([series_said(5, "glioma", weight=1.0)]),
    "no tumour": reported_study(
        [
            series_said(2, "notumor", description="AX T1", sequence="T1", weight=0.5),
            series_said(3, "notumor", description="AX FLAIR", sequence="FLAIR", weight=0.5),
            series_said(9, None, description="KNIE SAG PD", reason="body-part", images=0, sequence="PD"),
        ],
        "notumor",
    ),
    "twelve series": reported_study(
        [
            *(
                series_said(
                    number,
                    "meningioma",
                    0.8 + number / 100,
                    description=name,
                    weight=1 / 8,
                    sequence="T1",
                    contradicts=number == 3,
                )
                for number, name in enumerate(_PROTOCOL[:8], 1)
            ),
            series_said(
                101,
                None,
                description="t1_mprage_sag_p2_iso nach KM, Rekonstruktion axial 3 mm (Schädel-Hirn), Nachverarbeitung",
                reason="out-of-distribution",
            ),
            series_said(1102, None, description="脳 造影 T1", reason="too-few-slices", images=2),
            series_said(None, None, description="", reason="not-a-brain"),
            series_said(9999, None, description="Localizer", reason="localizer", images=0, sequence=None),
        ],
        "meningioma",
        6,
        contradiction="series 1 (T1, axial), series 2 (T1, axial), 5 more: Meningioma; series 3 (T1, axial): Glioma.",
    ),
    "series disagree": reported_study(
        [
            series_said(4, "glioma", 0.8, weight=0.5, contradicts=True),
            series_said(5, "notumor", 0.9, description="AX FLAIR", sequence="FLAIR", weight=0.5, contradicts=True),
        ],
        None,
        reason="series-disagree",
        detail="The series disagree. series 4 (T1C, axial): Glioma; series 5 (FLAIR, axial): No tumour.",
        contradiction="series 4 (T1C, axial): Glioma; series 5 (FLAIR, axial): No tumour.",
    ),
    "not assessed": reported_study(
        [series_said(1, None, reason="out-of-distribution"), series_said(2, None, reason="not-a-brain")],
        None,
        None,
        reason="no-series-assessed",
        detail="series 1 (T1C, axial): out-of-distribution, series 2 (T1C, axial): not-a-brain",
    ),
}


def key_images_of(study: ReportedStudy, *, activation: bool = True) -> list[KeyImage]:
    """Images of the deciding series' key slices."""
    slices = study.deciding.key_slices if study.deciding is not None else ()
    return [key_image(number - 1, activation=activation) for number, _ in slices]
