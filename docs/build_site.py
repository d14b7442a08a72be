"""Build the documentation site: `python docs/build_site.py [FOLDER]` writes FOLDER/html (default: var/site).

The source of the site mirrors the repository: README.md, the documents, and every file that one of them links to, so
that a link means the same in the repository and on the site. The reference pages are written here from the code that
they describe; nothing of the site is committed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import typer
from pydantic import BaseModel
from rich.text import Text

import monai_train.cli.app
import worker.cli.app
from worker.config.notify import NotifySection
from worker.config.routing import Condition, RouteSection
from worker.config.sections import PeerSection
from worker.config.settings import Settings
from worker.db.engine import Database
from worker.send.destinations import kinds
from worker.web.app import create_app
from worker.web.pages.api_reference import describe_type, operations_of, schemas_of

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)")
_LONGEST_DEFAULT = 90  # characters of a default value in a table


def build(folder: Path) -> Path:
    """Assemble FOLDER/source and build FOLDER/html of it; the path of its first page.

    Raises CalledProcessError if the generator fails, or finds a link or an anchor that leads nowhere.
    """
    source = folder / "source"
    shutil.rmtree(source, ignore_errors=True)
    assemble(source)
    shutil.copy(ROOT / "docs/mkdocs.yml", folder)
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"],
        cwd=folder,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},  # docs/decisions/0016-documentation-site.md
        check=True,
    )
    return folder / "html/index.html"


def assemble(source: Path) -> None:
    """Write the pages and files of the site below `source`."""
    openapi = _openapi()
    for name, text in {
        "docs/reference/configuration.md": configuration(),
        "docs/reference/worker.md": commands("worker", worker.cli.app.app),
        "docs/reference/monai-train.md": commands("monai-train", monai_train.cli.app.app),
        "docs/reference/rest.md": rest(openapi),
    }.items():
        _write(source / name, text)
    _write(source / "docs/reference/openapi.json", json.dumps(openapi, indent=1))
    shutil.copytree(ROOT / "docs/assets", source / "docs/assets")
    waiting = [ROOT / "README.md", ROOT / "config.toml", *sorted((ROOT / "docs").glob("*.md"))]
    seen = set(waiting)
    while waiting:
        file = waiting.pop()
        target = source / file.relative_to(ROOT)
        if file.is_dir():
            text, linked = _index(file)
            target /= "index.md"
        elif file.suffix == ".md":
            text, linked = _page(file)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
            continue
        _write(target, text)
        waiting += sorted(linked - seen)
        seen |= linked


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _page(file: Path) -> tuple[str, set[Path]]:
    """The text of a document, and the files and folders of the repository that it links to."""
    linked = set()

    def resolve(match: re.Match[str]) -> str:
        path = (file.parent / match[1]).resolve()
        if not path.exists():  # a page that is written here; the generator finds a broken link
            return match[0]
        linked.add(path)
        return f"{match[0].rstrip('/')}/index.md" if path.is_dir() else match[0]

    return _LINK.sub(resolve, spaced(file.read_text(encoding="utf-8"))), linked


def spaced(text: str) -> str:
    """CommonMark as Python-Markdown reads it: a blank line before a list or a table, four spaces below a number."""
    lines: list[str] = []
    fenced = inside = False  # in a fence; in one that is indented
    for line in text.splitlines():
        indented = f" {line}" if re.match(r" {3}(?! )", line) or (inside and line.startswith("   ")) else line
        before = lines[-1] if lines else ""
        starts = re.match(r"\||(?:[-*]|\d+\.) ", line)
        continues = before[:1] in ("|", "-", "*", " ") or re.match(r"\d+\. ", before)
        if starts and not fenced and before.strip() and (not continues or before.lstrip() == "```"):
            lines.append("")
        fence = line.lstrip().startswith("```")
        fenced = fenced != fence
        inside = fenced and (inside or line.startswith("   "))
        lines.append(indented)
    return "\n".join(lines) + "\n"


def _index(folder: Path) -> tuple[str, set[Path]]:
    """A page that lists the files of a folder, Markdown by its title."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    lines = [f"# {folder.name.capitalize()}", ""]
    for file in files:
        title = file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") if file.suffix == ".md" else file.name
        lines.append(f"- [{title}]({file.name})")
    return "\n".join(lines) + "\n", set(files)


def configuration() -> str:
    """Every key of config.toml, by section: type, limits and default from the code, meaning from config.toml."""
    tables = key_meanings((ROOT / "config.toml").read_text(encoding="utf-8"))
    parts = [
        "# Configuration",
        "Every key that `config.toml` may hold. The file that ships is [config.toml](../../config.toml). An "
        "environment variable `WORKER__SECTION__KEY=value` overrides a key; lists "
        "and whole sections are given as JSON.",
    ]
    for name, section in configuration_sections():
        parts += [
            f"## {name}",
            _plain((section.__doc__ or "").removeprefix(f"{name}: ")),
            _keys(section, meanings_of(name, section, tables)),
        ]
    return "\n\n".join(parts) + "\n"


def configuration_sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Every table of config.toml with its heading."""
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield f"[{name}]", field.annotation
    yield "[[peer]]", PeerSection
    yield "[[route]]", RouteSection
    yield "match of a [[route]]", Condition
    for kind in kinds():
        yield f"[[destination]] ({kind.__name__.removesuffix('Destination')})", kind
    yield "[[notify]]", NotifySection


def _keys(section: type[BaseModel], meanings: Mapping[str, str]) -> str:
    schema = section.model_json_schema()
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in schema["properties"].items():
        choices = [choice for choice in field.get("anyOf", [field]) if choice.get("type") != "null"]
        required = key in schema.get("required", ())
        default = "required" if required else _default(field.get("default"))
        kind = " or ".join(dict.fromkeys(describe_type(choice) for choice in choices))
        rows.append(
            f"| `{key}` | {_cell(kind)} | {default} | {_cell(meanings.get(key) or field.get('description', ''))} |"
        )
    return "\n".join(rows)


def _default(value: Any) -> str:
    if value is None:
        return "none"
    text = json.dumps(value, ensure_ascii=False)
    if len(text) > _LONGEST_DEFAULT:
        return f"{len(value)} values: config.toml"
    return f"`{text}`"


_TABLE = re.compile(r"^(?:# )?(\[{1,2}\w+\]{1,2})")
_KEY = re.compile(r"^(?:# )?(\w+) = (?:.*?[\[\]\"\w}])?(?:\s+# (.*))?$")
_SAME = re.compile(r"^# ((?:\w+, )*\w+)(?: {2,}#)? ((?:as in|the name of|never in) .*)$")
_MORE = re.compile(r"^#?\s{20,}(?:# )?(\S.*)$")
_BEFORE = re.compile(r"^# ([A-Z].*)$")


def key_meanings(toml: str) -> list[tuple[str, dict[str, str]]]:
    """What the comments of config.toml say of the keys of each table, in order: beside a key, below, or before it."""
    tables: list[tuple[str, dict[str, str]]] = [("", {})]
    last, before = "", ""
    for line in toml.splitlines():
        found = tables[-1][1]
        if match := _TABLE.match(line):
            tables.append((match[1], {}))
            last, before = "", ""
        elif match := _KEY.match(line):
            last, text = match[1], match[2] or before
            found.setdefault(last, text)
            before = ""
        elif match := _SAME.match(line):
            for key in match[1].split(", "):
                found.setdefault(key, match[2])
        elif (match := _MORE.match(line)) and last:
            found[last] = f"{found[last]} {match[1]}".strip()
        elif match := _BEFORE.match(line):
            before = f"{before} {match[1]}".strip()
    return tables


def meanings_of(heading: str, section: type[BaseModel], tables: list[tuple[str, dict[str, str]]]) -> dict[str, str]:
    """What config.toml says of the keys of a section; of a kind of [[destination]], in the table that is an example."""
    table = heading.split(" ")[0]
    own = [keys for name, keys in tables if name == table and keys.keys() <= section.model_fields.keys()]
    all_of_name = [keys for name, keys in tables if name == table]
    return {key: text for keys in reversed(own + all_of_name) for key, text in keys.items() if text}


def commands(program: str, app: typer.Typer) -> str:
    """Every command of a program: what it does, its arguments and options."""
    root = typer.main.get_command(app)
    parts = [f"# {program}", _help(root)]
    for names, command in leaves((program,), root):
        context = click.Context(command, info_name=" ".join(names))
        usage = " ".join([*names, *command.collect_usage_pieces(context)])
        parts += [f"## {' '.join(names)}", _help(command), f"```text\n{usage}\n```"]
        rows = [_parameter(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
        if rows:
            parts.append("\n".join(["| argument or option | meaning | default |", "|---|---|---|", *rows]))
    return "\n\n".join(part for part in parts if part) + "\n"


def leaves(names: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The commands of a program with their names, groups opened."""
    if not hasattr(command, "list_commands"):
        yield names, command
        return
    context = click.Context(command, info_name=names[-1])
    for name in command.list_commands(context):
        yield from leaves((*names, name), command.get_command(context, name))


def _help(command: Any) -> str:
    return _plain(Text.from_markup(command.help or "").plain)


def _parameter(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        declared = (parameter.metavar or parameter.name).upper()
    else:
        declared = ", ".join([*parameter.opts, *parameter.secondary_opts])
    default = parameter.default
    shown = (
        "required"
        if parameter.required
        else ""
        if default in (None, False, ()) or callable(default)
        else f"`{default}`"
    )
    return f"| `{declared}` | {_cell(Text.from_markup(getattr(parameter, 'help', None) or '').plain)} | {shown} |"


def _openapi() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/unused.db")
        try:
            return create_app(Settings(), database).openapi()
        finally:
            database.close()


def rest(document: dict[str, Any]) -> str:
    """Every operation of an OpenAPI document, and the objects that it returns."""
    parts = [
        "# REST API",
        "The operations of `/api/v1`, `/dicom-web` and the service itself, from its OpenAPI document "
        "([openapi.json](openapi.json); the worker answers it at `/openapi.json`). "
        "A running worker shows them at `/api`.",
    ]
    for tag, operations in operations_of(document).items():
        parts.append(f"## {tag}")
        for operation in operations:
            parts += [f"### {operation.method.upper()} {operation.path}", _plain(operation.description)]
            if operation.parameters:
                rows = [
                    f"| `{found.name}` | {found.location} | {_cell(found.type)} | {_cell(found.description)} |"
                    for found in operation.parameters
                ]
                parts.append("\n".join(["| parameter | in | type | meaning |", "|---|---|---|---|", *rows]))
            parts.append(f"Answers: {_plain(operation.responses)}")
    parts.append("## Objects")
    for name, schema in schemas_of(document).items():
        rows = [f"| `{field}` | {_cell(kind)} |" for field, kind in schema.fields.items()]
        parts += [f"### {name}", _plain(schema.description), "\n".join(["| field | type |", "|---|---|", *rows])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _plain(text: str) -> str:
    """Text as Markdown that shows it unchanged, but for its line breaks; `code` stays code."""
    return re.sub(
        r"(?<!`)([*_<\[\]])(?![^`\n]*`)", r"\\\1", "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
    )


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|").replace("\n\n", " ")


if __name__ == "__main__":
    print(build((Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "var/site").resolve()))
