"""The commands of `monai-train`: all are listed, and listing them loads no library that takes seconds."""

from __future__ import annotations

import subprocess
import sys

COMMANDS = ("convert", "explore", "audit", "train", "search", "evaluate", "compare", "crossval", "evaluate-default",
            "export", "retrain", "seeds")  # fmt: skip
HEAVY = ("torch", "openvino", "optuna", "scipy", "matplotlib", "monai", "sklearn")


def test_help_lists_every_command_without_heavy_imports() -> None:
    script = f"""
import sys
from typer.testing import CliRunner
from monai_train.cli.app import app
result = CliRunner().invoke(app, ["--help"])
print(result.output)
print("loaded", sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for command in COMMANDS:
        assert f"  {command} " in answer.stdout
    assert "loaded []" in answer.stdout
