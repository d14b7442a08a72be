"""The `worker` command, run in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from worker.cli import app

Run = Callable[..., tuple[int, str, str]]


def command(config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A function for `worker ARGUMENTS --config FILE`: exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["worker", *arguments, "--config", str(config)])
        with pytest.raises(SystemExit) as ended:
            app.main()
        structlog.reset_defaults()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run
