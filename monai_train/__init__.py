"""Training and evaluation of the models that the worker serves."""

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # see worker/__init__.py
