"""What the documents say is what the program does."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer

import monai_train.cli.app
import worker.cli.app
from worker.inference.bundle import default_bundle, verified_identity

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
APPS = {"worker": worker.cli.app.app, "monai-train": monai_train.cli.app.app}


def _commands() -> list[str]:
    found = []
    for document in DOCUMENTS:
        for block in re.findall(r"```sh\n(.*?)```", document.read_text(), re.DOTALL):
            lines = [line.split(" #")[0].strip() for line in block.splitlines()]
            found += [line for line in lines if line.startswith(tuple(APPS))]
    return found


@pytest.mark.parametrize("line", _commands())
def test_a_documented_command_is_understood(line: str) -> None:
    program, *arguments = shlex.split(line)
    command: click.Command = typer.main.get_command(APPS[program])
    context = click.Context(command)
    while isinstance(command, click.Group):
        found = command.get_command(context, arguments.pop(0))
        assert found is not None, line
        command = found
    command.make_context(program, arguments, resilient_parsing=False).close()


def test_documents_were_found() -> None:
    assert len(_commands()) > 10


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_link_to_a_file_leads_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_the_readme_adds_a_copy_of_the_bundle_that_is_shipped() -> None:
    named = set(re.findall(r'brain-mri-tumour[: ](\d[\d.]*\d)|"version": "(\d[\d.]*\d)"', DOCUMENTS[0].read_text()))
    assert {"".join(version) for version in named} == {verified_identity(default_bundle()).version}


def test_the_threat_model_names_tests_that_exist() -> None:
    named = re.findall(r"`(tests/[a-z_/]+\.py)(?:::(test_\w+))?`", (ROOT / "docs/threat-model.md").read_text())
    assert len(named) > 20
    for file, function in named:
        assert f"def {function}" in (ROOT / file).read_text(), f"{file}::{function}"


def test_the_conformance_statement_is_what_the_tables_say() -> None:
    check = subprocess.run([sys.executable, str(ROOT / "docs/conformance.py"), "--check"], check=False)
    assert check.returncode == 0, "run python docs/conformance.py"


def test_the_architecture_names_every_package() -> None:
    tree = (ROOT / "ARCHITECTURE.md").read_text().split("```")[1]
    packages = {file.parent for half in ("worker", "monai_train") for file in (ROOT / half).rglob("__init__.py")}
    assert [str(package) for package in sorted(packages) if f"{package.name}/" not in tree] == []
