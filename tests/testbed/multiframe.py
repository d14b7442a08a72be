"""The phantom head as one Enhanced MR object (PS3.3 A.36.2): many frames in a file, geometry in functional groups."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import EnhancedMRImageStorage, generate_uid

from tests.testbed.phantom import Grid, common_attributes, dataset, decimal, set_pixels, slice_pixels, write

_FRAME_TYPE: Mapping[str, Any] = {
    "PixelPresentation": "MONOCHROME",
    "VolumetricProperties": "VOLUME",
    "VolumeBasedCalculationTechnique": "NONE",
    "ComplexImageComponent": "MAGNITUDE",
    "AcquisitionContrast": "T1",
}
# DERIVED, because an ORIGINAL object must describe its pulse sequence in fifty attributes that nothing here reads.
_IMAGE_TYPE = ["DERIVED", "PRIMARY", "T1", "NONE"]
_ENHANCED: Mapping[str, Any] = {
    **_FRAME_TYPE,
    "ImageType": _IMAGE_TYPE,
    "InstanceNumber": 1,
    "AcquisitionDateTime": "20261121080000",
    "AcquisitionDuration": 120.0,
    "AcquisitionContextSequence": [],
    "ContentQualification": "RESEARCH",
    "ApplicableSafetyStandardAgency": "IEC",
    "BurnedInAnnotation": "NO",
    "LossyImageCompression": "00",
    "PresentationLUTShape": "IDENTITY",
    "SeriesDescription": "T1 axial enhanced",
}


def enhanced_head(folder: Path, *, mass: bool = False, grid: Grid | None = None) -> Path:
    """Write the head as one multi-frame file."""
    grid = grid or Grid()
    frames = np.stack(list(slice_pixels(grid, mass=mass)))
    ds = dataset({**common_attributes(EnhancedMRImageStorage), **_ENHANCED, "SOPInstanceUID": generate_uid()})
    ds.NumberOfFrames = len(frames)
    ds.SharedFunctionalGroupsSequence = [_shared_group(grid)]
    ds.PerFrameFunctionalGroupsSequence = [_frame_group(grid, index) for index in range(grid.slices)]
    organisation = generate_uid()
    ds.DimensionOrganizationSequence = [dataset({"DimensionOrganizationUID": organisation})]
    ds.DimensionIndexSequence = [_dimension(organisation, keyword) for keyword in ("StackID", "InStackPositionNumber")]
    set_pixels(ds, frames, bits_stored=12)
    return write(ds, folder / "enhanced.dcm")


def _shared_group(grid: Grid) -> Dataset:
    """What is true of every frame (PS3.3 C.7.6.16.2)."""
    row, column, _ = grid.directions()
    spacing = {
        "PixelSpacing": [decimal(grid.pixel_mm)] * 2,
        "SliceThickness": decimal(grid.slice_mm),
        "SpacingBetweenSlices": decimal(grid.slice_mm),
    }
    rescale = {"RescaleIntercept": "0", "RescaleSlope": "1", "RescaleType": "US"}
    brain = {"CodeValue": "12738006", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Brain"}
    anatomy = {"AnatomicRegionSequence": [dataset(brain)], "FrameLaterality": "U"}
    orientation = {"ImageOrientationPatient": [decimal(cosine) for cosine in (*row, *column)]}
    macros: dict[str, Mapping[str, Any]] = {
        "PlaneOrientationSequence": orientation,
        "PixelMeasuresSequence": spacing,
        "PixelValueTransformationSequence": rescale,
        "MRImageFrameTypeSequence": {**_FRAME_TYPE, "FrameType": _IMAGE_TYPE},
        "FrameAnatomySequence": anatomy,
    }
    return dataset({keyword: [dataset(values)] for keyword, values in macros.items()})


def _frame_group(grid: Grid, index: int) -> Dataset:
    content = {"StackID": "1", "InStackPositionNumber": index + 1, "DimensionIndexValues": [1, index + 1]}
    position = {"ImagePositionPatient": [decimal(coordinate) for coordinate in grid.position(index)]}
    return dataset({"FrameContentSequence": [dataset(content)], "PlanePositionSequence": [dataset(position)]})


def _dimension(organisation_uid: str, keyword: str) -> Dataset:
    return dataset(
        {
            "DimensionOrganizationUID": organisation_uid,
            "DimensionIndexPointer": Tag(keyword),
            "FunctionalGroupPointer": Tag("FrameContentSequence"),
        }
    )
