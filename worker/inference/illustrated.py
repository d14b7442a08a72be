"""A series result with its key image, from which the Secondary Capture is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.errors import NotAssessable
from worker.pixels.arrays import ByteArray, FloatArray
from worker.results import ResultStatus, SeriesResult

if TYPE_CHECKING:  # the receiver loads neither numpy nor what reads pixels
    from worker.pixels.geometry import Edges


@dataclass(frozen=True, slots=True)
class KeyImage:
    """The slice that illustrates a result: as displayed (oriented, square pixels, windowed), with its activation map.

    `image` [rows, columns] grey 0-255; `activation` [rows, columns] in [0, 1] on the same grid, 0 outside the head,
    None where no lesion was found; `slice_index` into SeriesResult.slices; `edges` None for an unknown orientation.
    """

    slice_index: int
    image: ByteArray
    activation: FloatArray | None
    edges: Edges | None = None


@dataclass(frozen=True, slots=True)
class IllustratedResult(SeriesResult):
    """A result and its key image, None where no image could be read. The database stores the result only."""

    key_image: KeyImage | None = None


def not_assessed(refusal: NotAssessable) -> IllustratedResult:
    """The result of a series that the model refuses or that cannot be read."""
    return IllustratedResult(
        status=ResultStatus.NOT_ASSESSED,
        label=None,
        probability=None,
        probabilities={},
        reason=refusal.reason,
        detail=refusal.detail,
        slices=(),
        key_image=None,
    )
