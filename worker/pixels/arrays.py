"""The kinds of array that pass between stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]
    ByteArray = npt.NDArray[np.uint8]
else:  # a command that only reads a bundle's identity starts without numpy
    FloatArray = ByteArray = object
