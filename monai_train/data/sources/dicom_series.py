"""What the headers of a DICOM series say in the manifest's words: sequence and plane, by the worker's own reading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydicom

from monai_train.data.manifest import PLANES
from worker.dicom import functional_groups, series_attributes, series_terms
from worker.dicom.header import parse_header_of_file
from worker.dicom.series_type import SeriesType, read_series_type

_GROUPS = (functional_groups.SHARED, functional_groups.PER_FRAME)
_SEQUENCES = {series_terms.Sequence.T2: "T2", series_terms.Sequence.FLAIR: "FLAIR"}


def series_columns(files: Sequence[Path], without_agent: bool = False) -> dict[str, str]:
    """`sequence` and `plane` of a series, "" where its headers do not say."""
    found = type_of_series(files)
    return {"sequence": sequence_of(found, without_agent), "plane": found.plane if found.plane in PLANES else ""}


def sequence_of(found: SeriesType, without_agent: bool = False) -> str:
    """The manifest's word for the sequence, "" if unknown.

    T1 of which the headers do not say whether a contrast agent was given is unknown, unless `without_agent` says so.
    """
    if found.sequence == series_terms.Sequence.T1:
        unknown = "T1" if without_agent else ""
        return {series_terms.Contrast.WITH: "T1C", series_terms.Contrast.WITHOUT: "T1"}.get(
            found.contrast_agent, unknown
        )
    return "" if found.sequence == series_terms.Sequence.UNKNOWN else _SEQUENCES.get(found.sequence, "other")


def type_of_series(files: Sequence[Path]) -> SeriesType:
    """The type of a series by its headers; a file that cannot be read says nothing."""
    images = []
    for file in files:
        try:
            images.append(_attributes(file))
        except Exception:  # hostile bytes may raise anything in a parser
            continue
    return read_series_type(images)


def _attributes(file: Path) -> dict[str, Any]:
    """The attributes of an image as `read_series_type` takes them."""
    syntax = str(pydicom.filereader.read_file_meta_info(file).TransferSyntaxUID)
    keywords: tuple[str | int, ...] = (
        *series_attributes.KEYWORDS, *series_attributes.PRIVATE_TAGS, "NumberOfFrames", "ImageOrientationPatient"
    )  # fmt: skip
    with file.open("rb") as stream:
        header = parse_header_of_file(stream, syntax, keywords, _GROUPS)
        top = series_attributes.read_attributes(header.dataset)
        kinds = [top]
        if functional_groups.has_groups(header):
            groups = series_attributes.GROUP_KEYWORDS
            variants = functional_groups.frame_variants(header, groups, series_attributes.group_texts)
            kinds = [top | series_attributes.read_frame_attributes(variant) for variant in variants]
    orientation = [float(cosine) for cosine in header.dataset.get("ImageOrientationPatient") or ()]
    frames = int(header.dataset.get("NumberOfFrames") or 1)
    return {
        series_attributes.TYPE_KEY: kinds,
        "frames": frames,
        "place": [*orientation, 0.0, 0.0, 0.0] if len(orientation) == 6 else [],
    }
