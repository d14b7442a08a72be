"""The commands of `monai-train`: all are listed, and listing them loads no library that takes seconds."""

from __future__ import annotations

import shlex
import subprocess
import sys

import typer
from typer.testing import CliRunner

from monai_train.cli.app import app
from worker import __version__

COMMANDS = ("convert", "explore", "audit", "train", "settings", "search", "evaluate", "compare", "crossval",
            "evaluate-default", "export", "retrain", "import", "seeds")  # fmt: skip
HEAVY = ("torch", "openvino", "optuna", "scipy", "matplotlib", "monai", "sklearn")


def test_help_lists_every_command_without_heavy_imports() -> None:
    script = f"""
import sys
from typer.testing import CliRunner
from monai_train.cli.app import app
result = CliRunner().invoke(app, ["--help"])
print(result.output)
for command in {COMMANDS!r}:
    assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0
print("loaded", sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for command in COMMANDS:
        assert f"  {command} " in answer.stdout
    assert "loaded []" in answer.stdout


def test_the_version_is_printed_alone() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"{__version__}\n"


def test_examples_of_every_help_are_accepted() -> None:
    """Options and their values as the parser takes them; what the commands do is tested with each of them."""
    commands = typer.main.get_command(app).commands
    for name, command in commands.items():
        lines = [line.strip() for line in command.help.splitlines() if "Example: monai-train" in line]
        assert lines, name
        called, *arguments = shlex.split(lines[0].removeprefix("Example: monai-train "))
        assert called == name
        command.make_context(name, list(arguments))
