"""What the images of a series are by themselves: ImageType, FrameType and what Enhanced MR says beside them; planes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence as Many
from typing import Any

from worker.dicom.series_attributes import TYPE_KEY, Attributes, first_number, number
from worker.dicom.series_terms import Sequence

PARALLEL = 0.95  # cosine between normals: 18 degrees, as pixels.geometry compares them
UNKNOWN = "unknown"
_PLANES = ("sagittal", "coronal", "axial")

# Values of ImageType and FrameType (PS3.3 C.8.13.3.1.1 and vendors' conformance statements), most telling first.
BY_IMAGE_TYPE: tuple[tuple[Sequence, str, frozenset[str]], ...] = (
    (Sequence.LOCALIZER, "", frozenset({"LOCALIZER", "SCOUT", "SURVEY", "LOC"})),
    (Sequence.ADC, "map", frozenset({"ADC", "EADC", "ADC_UNSPECIFIED", "AVERAGE_ADC", "DADC"})),
    (Sequence.DWI, "map", frozenset({"FA", "TRACEW", "TRACE", "TENSOR", "TENSOR_B0", "COLFA", "ISO", "RA", "VR",
                                     "EIGENVALUE", "EIGENVECTOR"})),
    (Sequence.DWI, "", frozenset({"DIFFUSION", "DWI", "DTI", "CALC_BVALUE"})),
    (Sequence.PERFUSION, "map", frozenset({"RCBF", "CBF", "RELCBF", "CBV", "RCBV", "RELCBV", "RELMTT", "MTT", "TTP",
    "PBP",
                                           "GBP", "TMAX", "AIFMASK", "CORRECTED CBV", "PERFUSION_ASL"})),
    (Sequence.PERFUSION, "", frozenset({"PERFUSION", "ASL", "DSC", "SUBTRACTED ASL"})),
    (Sequence.FUNCTIONAL, "", frozenset({"FMRI", "BOLD", "T-TEST", "TTEST", "ZMAP", "GLM"})),
    (Sequence.ANGIOGRAPHY, "", frozenset({"TOF", "MRA", "ANGIO", "PCA", "VELOCITY", "FLOW_ENCODED"})),
    (Sequence.T2_STAR, "", frozenset({"SWI", "SWAN", "MNIP"})),
    (Sequence.OTHER, "map", frozenset({"T1 MAP", "T2 MAP", "T2* MAP", "T2_STAR MAP", "R2 MAP", "R2* MAP", "R2_STAR MAP",
                                       "QMAP", "T1MAP", "T2MAP", "B0 MAP", "B1 MAP", "QSM", "SPECTROSCOPY"})),
)  # fmt: skip
_PROJECTIONS = frozenset({"PROJECTION IMAGE", "MIP", "MNIP", "MINIP", "MAX_IP", "MIN_IP", "VOLUME_RENDER",
"SURFACE_RENDER",
                          "RADIAL"})  # fmt: skip
_PHASES = frozenset({"P", "PHASE", "PHASE MAP", "PHASE_MAP", "R", "REAL", "I", "IMAGINARY", "VELOCITY MAP", "PCA/P"})


def image_types(kind: Attributes) -> set[str]:
    """All values of ImageType and FrameType, and of what Enhanced MR says instead of them."""
    values = (kind.get(keyword, ()) for keyword in ("ImageType", "FrameType", "VolumeBasedCalculationTechnique"))
    return {value for texts in values for value in texts} - {"NONE", ""}


def derived_into(kind: Attributes) -> str:
    """What an image was made into; empty for an original image."""
    types = image_types(kind)
    samples = first_number(kind, "SamplesPerPixel") or 1
    if samples > 1 or {"COLOR", "TRUE_COLOR", "COLOR_RANGE"} & set(kind.get("PixelPresentation", ())):
        return "colour"
    components = set(kind.get("ComplexImageComponent", ())) & {"PHASE", "REAL", "IMAGINARY", "MIXED"}
    if types & _PHASES or components:
        return "phase"
    if types & _PROJECTIONS:
        return "projection"
    for _, what, values in BY_IMAGE_TYPE:
        if what and types & values:
            return what
    return "derived" if "DERIVED" in types else ""


def normals(images: Many[Mapping[str, Any]]) -> list[tuple[float, float, float]]:
    """The unit normals of the images whose orientation is known, the largest component positive."""
    found: list[tuple[float, float, float]] = []
    for image in images:
        cosines = [image["place"][:6]] if image.get("place") else []
        for kind in image.get(TYPE_KEY) or ():
            numbers = [number(text) for text in kind.get("ImageOrientationPatient", ())]
            if len(numbers) == 6:
                cosines.append(numbers)
        found += [normal for numbers in cosines if (normal := _normal(numbers)) is not None]
    return found


def _normal(cosines: Many[float | None]) -> tuple[float, float, float] | None:
    if any(cosine is None or abs(cosine) > 2 for cosine in cosines):
        return None
    ax, ay, az, bx, by, bz = (float(cosine or 0) for cosine in cosines)
    normal = (ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx)
    length = math.hypot(*normal)
    if length < 0.5:
        return None
    sign = math.copysign(length, max(normal, key=abs))
    return (normal[0] / sign, normal[1] / sign, normal[2] / sign)


def find_plane(images: Many[Mapping[str, Any]]) -> tuple[str, bool]:
    """(the plane that is nearest, whether the images are not parallel)."""
    found = normals(images)
    if not found:
        return UNKNOWN, False
    first = found[0]
    mixed = any(abs(sum(a * b for a, b in zip(first, other, strict=True))) < PARALLEL for other in found)
    return _PLANES[max(range(3), key=lambda axis: abs(first[axis]))], mixed
