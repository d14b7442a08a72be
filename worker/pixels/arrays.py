"""The kinds of array that pass between stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]
    ByteArray = npt.NDArray[np.uint8]
    PixelArray = npt.NDArray[np.integer[Any]]
else:  # a command that only reads a bundle's identity starts without numpy
    FloatArray = ByteArray = PixelArray = object
