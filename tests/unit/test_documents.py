"""What the documents say is what the program does."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
import typer

import monai_train.cli.app
import worker.cli.app
from monai_train.data.labels import Classes
from monai_train.export.coded_classes import coded_classes
from monai_train.export.imported.description import read_description
from worker.config.settings import Settings, load_settings
from worker.inference.bundle import default_bundle, verified_identity
from worker.send.destinations import kinds
from worker.tls import certificate_fault, server_context

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
APPS = {"worker": worker.cli.app.app, "monai-train": monai_train.cli.app.app}


def _blocks(language: str) -> list[tuple[str, str]]:
    """The code blocks in a language, each with the document that it stands in."""
    return [
        (document.name, textwrap.dedent(block))
        for document in DOCUMENTS
        for block in re.findall(rf"^ *```{language}\n(.*?)^ *```", document.read_text(), re.DOTALL | re.MULTILINE)
    ]


def _commands() -> list[str]:
    """Commands of ours: at the beginning of a line, or run in a container."""
    lines = [line.split(" #")[0].strip() for _, block in _blocks("sh") for line in block.splitlines()]
    ours = [re.sub(r"^(?:docker compose|kubectl).* exec .*?(?=worker (?!worker|--))", "", line) for line in lines]
    return [line for line in ours if line.startswith(tuple(APPS))]


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
    assert _commands().count("worker tokens add --role operate --config /etc/worker/config.toml") == 3


def test_the_shell_understands_every_block() -> None:
    for document, block in _blocks("sh"):
        check = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False)
        assert (check.returncode, check.stderr) == (0, ""), (document, block)


def test_every_toml_block_is_read_by_what_it_is_written_for(tmp_path: Path) -> None:
    """config.toml, or a file of `monai-train import` or `export --concepts`."""
    readers = set()
    for document, block in _blocks("toml"):
        file = tmp_path / "block.toml"
        file.write_text(block)
        tables = tomllib.loads(block)
        if tables.keys() <= Settings.model_fields.keys():
            load_settings(file, kinds())
            readers.add("config")
        elif "class" in tables:
            read_description(file)
            readers.add("import")
        else:
            coded_classes(Classes.named((*tables, "notumor")), file)
            readers.add("concepts")
        assert block, document
    assert readers == {"config", "import", "concepts"}


def test_json_and_python_blocks_are_valid_and_import_what_exists() -> None:
    for _, block in _blocks("json"):
        json.loads(block)
    imports = [
        node
        for document, block in _blocks("python")
        for node in ast.walk(ast.parse(block, document))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert len(imports) > 1
    exec(compile(ast.Module(list(imports), []), "imports of the documents", "exec"), {})


def test_certificates_made_as_the_guide_says_are_taken(tmp_path: Path) -> None:
    [block] = [block for document, block in _blocks("sh") if document == "tls.md" and "openssl" in block]
    subprocess.run(["bash", "-ec", block], cwd=tmp_path, check=True, capture_output=True)
    files = [tmp_path / "tls" / name for name in ("worker.pem", "worker-key.pem", "authority.pem")]
    server_context(*files)
    assert certificate_fault(files[0], files[1], datetime.now(UTC), of_server=True) is None


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


def test_what_others_have_and_the_worker_lacks_has_a_reason() -> None:
    text = (ROOT / "docs/compared.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and not line.startswith("| |")]
    assert len(rows) > 40
    ours = [row[1].strip() for row in rows]
    assert [
        cell for cell in ours if cell == "\N{EN DASH}" or (cell.startswith("no") and len(cell.partition(": ")[2]) < 30)
    ] == []
    cited = set(re.findall(r"\[([OMLDV]\d+)\]", text))
    assert cited == set(re.findall(r"\b([OMLDV]\d+)\s", text.partition("## Sources")[2]))
