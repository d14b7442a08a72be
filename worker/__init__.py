"""The AI worker a PACS sends MRI series to. Research use only."""

import os
import sys
from typing import TYPE_CHECKING

# Importing openvino or nncf would tell Google Analytics of it and write into the home folder. Without this package,
# which they require, they do neither. A hospital's worker talks to the peers in its configuration and to nobody else.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

# pydantic would look through every installed package for plugins of its own, at the start of every process.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """`__version__`, when it is first read: importing `importlib.metadata` is a tenth of what `--help` takes."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version

        try:
            globals()[name] = version("brain-mri-worker")
        except PackageNotFoundError:  # run from a checkout that was never installed
            globals()[name] = "0+unknown"
        return globals()[name]
