"""The frame of the command: help that is quick and complete, and faults that become an exit code and a line."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from tests.testbed.command import Run
from worker import __version__
from worker.cli import app as command
from worker.cli.app import app, main
from worker.errors import NotAssessable, StartError

HEAVY = (
    "sqlalchemy", "pydicom", "pynetdicom", "numpy", "requests", "fastapi", "openvino", "torch", "rich.progress",
    "pydantic", "structlog", "asyncio", "importlib.metadata",
)  # fmt: skip


def _commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), typer.main.get_command(app))]
    while waiting:
        words, node = waiting.pop()
        if hasattr(node, "commands"):
            waiting += [((*words, name), child) for name, child in node.commands.items()]
        else:
            yield words, node


COMMANDS = dict(_commands())


def _imported(*arguments: str) -> set[str]:
    """Every module that `worker ARGUMENTS` imports."""
    program = f"""
import sys
sys.argv = ["worker", *{arguments!r}]
from worker.cli.app import main
try:
    main()
except SystemExit as ended:
    print(ended.code, *sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    code, *names = done.stdout.splitlines()[-1].split()
    assert code == "0", done.stderr
    return set(names)


def test_help_imports_no_library_that_takes_time() -> None:
    modules = _imported("--help")
    assert modules & set(HEAVY) == set()
    assert len(modules) < 400  # 351, of 557 when every command and its libraries were imported


def test_commands_that_only_query_load_no_library_of_images(run: Run, config: Path) -> None:
    """They were half of what `worker studies list` takes."""
    commands = [
        ["results", "list"], ["results", "show", "1"], ["studies", "list"], ["studies", "show", "1"], ["jobs", "list"],
        ["deliveries", "list"], ["conflicts", "list"], ["models", "list"], ["tokens", "list"], ["audit", "list"],
    ]  # fmt: skip
    program = f"""
import sys
from worker.cli.app import main
for words in {commands!r}:
    sys.argv = ["worker", *words, "--config", {str(config)!r}]
    try:
        main()
    except SystemExit as ended:
        assert ended.code in (0, 1), words
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.splitlines()[-1].split())
    of_a_query = {"sqlalchemy", "pydantic", "structlog", "asyncio", "importlib.metadata"}
    assert modules & {*HEAVY, "PIL", "gdcm", "alembic"} <= of_a_query
    assert "worker.db.views.studies" in modules


def test_a_command_imports_no_other_command() -> None:
    modules = _imported("results", "list", "--help")
    assert {name for name in modules if name.startswith("worker.cli.")} == {
        "worker.cli.app",
        "worker.cli.context",
        "worker.cli.results",
    }


def test_every_command_of_a_module_has_a_place() -> None:
    for file in Path(command.__file__).parent.glob("*.py"):
        module = import_module(f"worker.cli.{file.stem}")
        for attribute in (
            name for name, value in vars(module).items() if isinstance(value, typer.Typer) and value is not app
        ):
            parent = typer.Typer()
            parent.add_typer(getattr(module, attribute))
            places = {
                name
                for name, place in command._PLACES.items()
                if (place.module, place.commands) == (file.stem, attribute)
            }
            is_group = any(command._PLACES[name].panel is not None for name in places)
            assert (len(places) == 1) if is_group else (places == set(typer.main.get_group(parent).commands)), attribute


def test_every_command_has_a_help_text_and_an_example_that_parses() -> None:
    assert len(COMMANDS) > 20
    for words, node in COMMANDS.items():
        assert node.help, words
        assert node.epilog is not None, words
        for example in re.split(r"\s{2,}or\s{2,}", node.epilog.removeprefix("Example: ")):
            program, *arguments = shlex.split(example)
            assert (program, *arguments[: len(words)]) == ("worker", *words)
            node.make_context(words[-1], arguments[len(words) :])  # raises for an option that is not known


def test_a_section_of_the_configuration_is_not_taken_for_markup() -> None:
    for words in COMMANDS:
        assert "[]" not in CliRunner().invoke(app, [*words, "--help"]).output, words
    for words, section in (((), "[[route]]"), (("models", "activate"), "[[route]]"), (("push",), "[[destination]]")):
        assert section in CliRunner().invoke(app, [*words, "--help"]).output


def test_a_flag_has_no_type_and_commands_stand_in_panels_with_the_first_steps_first() -> None:
    for words in ((), *COMMANDS):
        assert "<bool>" not in CliRunner().invoke(app, [*words, "--help"]).output, words
    shown = CliRunner().invoke(app, ["--help"]).output
    order = [shown.index(f"│ {name} ") for name in ("serve", "doctor", "echo", "results", "models", "tokens", "backup")]
    assert order == sorted(order)
    assert "─ Commands ─" not in shown, "a command without a panel"


def test_a_command_that_reads_creates_no_database_where_it_runs(tmp_path: Path) -> None:
    """In a terminal: the wrong folder, where nothing is."""
    program = [sys.executable, "-m", "worker", "results", "list"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"worker: there is no database {tmp_path}/var/worker.db yet: run `worker serve` or `worker migrate`\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_version_is_printed_alone() -> None:
    assert CliRunner().invoke(app, ["--version"]).output == f"{__version__}\n"


@pytest.mark.parametrize(
    ("fault", "code", "line"),
    [
        (StartError("config-missing", "there is no file"), 2, "worker: there is no file\n"),
        (NotAssessable("mixed-sizes", "sizes differ"), 1, "worker: sizes differ\n"),
        (
            OperationalError("SELECT secret", {}, ValueError("disk full\nSELECT secret")),
            1,
            "worker: the database failed: disk full\n",
        ),
        (BrokenPipeError(), 0, ""),
        (PermissionError(13, "Permission denied", "/data/out"), 1, "worker: permission denied: /data/out\n"),
    ],
)
def test_a_fault_is_a_line_and_an_exit_code(
    fault: Exception, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise fault

    monkeypatch.setattr(command, "app", fail)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err) == (code, line)


def test_the_text_of_an_unexpected_fault_is_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise KeyError("CANARY^NAME")

    monkeypatch.setattr(command, "app", fail)
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr().err
    assert ended.value.code == 1
    assert printed.startswith("worker: unexpected KeyError")
    assert "CANARY" not in printed


def test_the_readme_names_the_exit_codes_of_the_help() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "0 success, 1 problems found, 2 startup error" in shown
    operating = (Path(__file__).parents[3] / "docs" / "operating.md").read_text()
    assert "exit code 2" in operating
