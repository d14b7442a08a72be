"""Classify a series: files → volume → outputs → result, without side effects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from worker.dicom.series_attributes import Kinds
from worker.errors import NotAssessable
from worker.inference.aggregate import aggregate, aggregate_volume
from worker.inference.answer import answer, declared_of, read_declared
from worker.inference.bundle import Bundle, TopSlices
from worker.inference.engines import Engine
from worker.inference.illustrated import IllustratedResult
from worker.inference.preprocess import Volume
from worker.inference.transforms.prepare import prepare
from worker.stage_times import timed


def classify(
    paths: Sequence[Path], bundle: Bundle, engine: Engine, kinds: Sequence[Kinds] | None = None
) -> IllustratedResult:
    """Classify the files of a series, in any order, with the bundle's model.

    `kinds`: the attributes that tell the type of each file's image; None: they are read from the files.
    Raises NotAssessable for what cannot be read or is not accepted; OSError when a file cannot be opened.
    """
    with timed("series", "read"):
        volume = prepare(paths, bundle)
    check_accepted(volume, bundle)
    with timed("series", "network"):
        outputs = engine.run(volume.tensor)
    with timed("series", "answer"):
        if bundle.is_of_volumes:
            return aggregate_volume(volume, outputs, bundle)
        if isinstance(bundle.rule, TopSlices):
            return aggregate(volume, outputs, bundle)
        declared = read_declared(paths) if kinds is None else declared_of(kinds)
        return answer(volume, outputs, bundle, declared)


def check_accepted(volume: Volume, bundle: Bundle) -> None:
    """Check that the bundle accepts the series.

    Raises NotAssessable: wrong-modality, too-few-slices, image-too-small, image-too-large.
    """
    accepted = bundle.accepted_input
    if not volume.modalities <= set(accepted.modalities):
        raise NotAssessable("wrong-modality", f"The model accepts only {' and '.join(accepted.modalities)} images.")
    if len(volume.frames) < accepted.minimum_slices:
        raise NotAssessable("too-few-slices", f"The model needs at least {accepted.minimum_slices} slices.")
    if min(volume.rows, volume.columns) < accepted.minimum_rows:
        raise NotAssessable("image-too-small", f"The model needs at least {accepted.minimum_rows} rows and columns.")
    if volume.rows * volume.columns > accepted.maximum_pixels:
        raise NotAssessable("image-too-large", f"The model accepts at most {accepted.maximum_pixels} pixels per slice.")
