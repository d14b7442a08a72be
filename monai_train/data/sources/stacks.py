"""What the worker's preprocessing makes of converted images: slices that stack, images on their own, images refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from monai_train.data.sources.dicom_series import series_columns
from worker.errors import NotAssessable
from worker.inference.preprocess import Frame, Preprocessing, preprocess

PREPROCESSING_FILE = Path(__file__).parents[1] / "preprocessing.json"


@dataclass(frozen=True, slots=True)
class Stack:
    """The images of a series, or an image of none: paths relative to the converted folder.

    `without_agent`: a T1 whose headers do not mention a contrast agent was made without any.
    """

    paths: tuple[str, ...]
    series: str = ""
    without_agent: bool = False


@dataclass(slots=True)
class CheckedStack:
    """The columns of every image that can be used, and (reason, detail) of every other, by path.

    `reason` is why the images of a series are no stack, "" where they are.
    """

    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)
    reason: str = ""


def read_preprocessing(path: Path = PREPROCESSING_FILE) -> Preprocessing:
    """The preprocessing definition that training and bundles use (docs/decisions/0002)."""
    return Preprocessing.from_json(json.loads(path.read_text()))


def as_stored(definition: Preprocessing) -> Preprocessing:
    """The definition without reformatting: labels and numbers are of the slices as they are stored."""
    return replace(definition, slice_spacing_mm=0.0, reformat_below_mm=0.0)


def check_stack(stack: Stack, out: Path) -> CheckedStack:
    """Preprocess the images as a training will. What is no stack is checked image by image."""
    files = [out / path for path in stack.paths]
    try:
        frames = preprocess(files, as_stored(read_preprocessing())).frames
    except NotAssessable as error:
        if len(stack.paths) == 1:
            return CheckedStack(refused={stack.paths[0]: (error.reason, error.detail)})
        return _each_alone(stack, out, error.reason)
    known = {"series": stack.series, **series_columns(files, stack.without_agent)}
    levels = _levels(frames) if len(files) > 1 else {}
    return CheckedStack({path: known | levels.get(file, {}) for path, file in zip(stack.paths, files, strict=True)})


def _each_alone(stack: Stack, out: Path, reason: str) -> CheckedStack:
    whole = CheckedStack(reason=reason)
    for path in stack.paths:
        alone = check_stack(replace(stack, paths=(path,), series=""), out)
        whole.columns |= alone.columns
        whole.refused |= alone.refused
    return whole


def _levels(frames: tuple[Frame, ...]) -> dict[Path, dict[str, str]]:
    """The number of every file that is a slice, counted from the base, and of how many."""
    return {
        frame.path: {"slice_number": str(number), "slice_count": str(len(frames))}
        for number, frame in enumerate(frames, start=1)
        if frame.frame_number is None
    }
