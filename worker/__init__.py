"""The AI worker a PACS sends MRI series to. Research use only."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("brain-mri-worker")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"
