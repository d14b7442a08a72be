"""Frames that the tests of this folder decode."""

from __future__ import annotations

import numpy as np

FRAMES = np.random.default_rng(3).integers(0, 4000, (3, 96, 64), np.uint16)
