"""The AI worker a PACS sends MRI series to. Research use only."""

import sys
from importlib.metadata import PackageNotFoundError, version

# Importing openvino or nncf would tell Google Analytics of it and write into the home folder. Without this package,
# which they require, they do neither. A hospital's worker talks to the peers in its configuration and to nobody else.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

try:
    __version__ = version("brain-mri-worker")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"
