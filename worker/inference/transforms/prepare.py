"""DICOM files → the input tensors of a bundle's model, by whichever preprocessing the bundle has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from worker.inference.bundle import Bundle
from worker.inference.preprocess import Preprocessing, Volume, preprocess


def prepare(paths: Sequence[Path], bundle: Bundle) -> Volume:
    """Prepare the files of a series, in any order. Raises NotAssessable: the reasons of `preprocess` or `Pipeline`."""
    if isinstance(bundle.definition, Preprocessing):
        return preprocess(paths, bundle.definition)
    from worker.inference.transforms.series import Pipeline, check_shape  # MONAI and torch: seconds, 300 MB

    volume = Pipeline(bundle.definition, bundle.is_of_volumes)(paths)
    if bundle.input is not None:
        check_shape(volume, bundle.input)
    return volume
