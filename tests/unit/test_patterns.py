"""No regular expression of the source takes superlinear time: each is run on long texts made of its own characters."""

from __future__ import annotations

import ast
import importlib
import itertools
import multiprocessing
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from re import _constants, _parser  # type: ignore[attr-defined]
from types import ModuleType
from typing import Any

import pytest

from tests.unit.test_mirror import ROOT, modules

_METHODS = ("search", "match", "fullmatch", "sub", "subn", "split", "findall", "finditer")
_LENGTH = 30_000  # what takes quadratic time takes seconds with it, and what takes exponential time never ends
_SECONDS = 0.5
# Each pattern runs in a process of its own, forked from one that has nothing else in it.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__])
# Where the pattern is no constant of the module, and why that is safe.
NOT_CONSTANT = {
    "monai_train/networks/pretrained.py": "a table of the module, applied to names of published weights",
    "worker/dicom/series_terms.py": "words of its tables and of that of body_parts, on text that is cut",
    "worker/web/dicomweb/negotiation.py": "made of another constant; compiled at the top of the module, and run here",
}


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """(method, pattern) of every call that takes a pattern."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        is_of_re = isinstance(function, ast.Attribute) and ast.unparse(function.value) == "re" and node.args
        if isinstance(function, ast.Attribute) and is_of_re and function.attr in (*_METHODS, "compile"):
            yield function.attr, node.args[0]
        yield from (("search", keyword.value) for keyword in node.keywords if keyword.arg == "pattern")


def _constant(module: ModuleType, node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return getattr(module, node.id, None)
    return node.value if isinstance(node, ast.Constant) else None


def _patterns() -> Iterator[tuple[str, str, str | bytes]]:
    """(module, method, pattern); a compiled pattern with each method that its module calls on it."""
    for path in modules():
        text = (ROOT / path).read_text()
        if "re." not in text and "pattern=" not in text:
            continue
        module = importlib.import_module(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        for method, node in _calls(ast.parse(text)):
            pattern = _constant(module, node)
            if pattern is None:
                assert path in NOT_CONSTANT, f"{path}: a pattern that is no constant, so its time is unknown"
            elif method != "compile":
                yield path, method, pattern
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern):
                for method in _METHODS:
                    if f"{name}.{method}(" in text:
                        yield path, method, value.pattern


def _characters(parsed: Any) -> Iterator[str]:
    """A character for every literal and class of a pattern."""
    samples = {"CATEGORY_SPACE": " ", "CATEGORY_DIGIT": "7", "CATEGORY_WORD": "w"}
    for kind, argument in parsed:
        if kind in (_constants.LITERAL, _constants.NOT_LITERAL):
            yield chr(argument)
        elif kind is _constants.ANY:
            yield "x"
        elif kind is _constants.IN:
            for inner, value in argument:
                if inner is _constants.LITERAL:
                    yield chr(value)
                elif inner is _constants.RANGE:
                    yield chr(value[0])
                elif inner is _constants.CATEGORY:
                    yield samples.get(str(value), "x")
                else:
                    yield "x"
        elif isinstance(argument, tuple):
            for part in argument:
                if isinstance(part, _parser.SubPattern):
                    yield from _characters(part)
                elif isinstance(part, list):
                    for branch in part:
                        yield from _characters(branch)


def _attacks(pattern: str | bytes) -> Iterator[str]:
    parsed = _parser.parse(pattern)
    text = "".join(dict.fromkeys(_characters(parsed)))
    once = "".join(_characters(parsed))
    units = {*text, *map("".join, itertools.permutations(text[:6], 2)), once, once[:-1], "x"}
    for unit in sorted(units - {""}):
        body = unit * (_LENGTH // len(unit))
        for start, end in itertools.product(("", once, once[:1]), ("", "\0", once)):
            yield start + body + end


def _run(method: str, pattern: str | bytes, text: str) -> None:
    subject = text.encode("latin-1", "replace") if isinstance(pattern, bytes) else text
    compiled: Any = re.compile(pattern)
    if method in ("sub", "subn"):
        getattr(compiled, method)(subject[:0], subject)
    elif method == "finditer":
        list(compiled.finditer(subject))
    else:
        getattr(compiled, method)(subject)


def _attack(method: str, pattern: str | bytes, out: Connection) -> None:
    """Run every text; the kernel ends the process at one that takes too long, whose beginning was the last to be sent.

    An exception of a signal handler would do for most texts, but what it leaves behind in `re` ends the process later.
    """
    for text in _attacks(pattern):
        out.send(text[:20])
        signal.setitimer(signal.ITIMER_VIRTUAL, _SECONDS)  # of its own time: another's work counts for nothing
        _run(method, pattern, text)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def slow(method: str, pattern: str | bytes) -> str | None:
    """The beginning of a text on which a pattern takes too long."""
    receiver, sender = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_attack, args=(method, pattern, sender))
    process.start()
    sender.close()
    last = ""
    with receiver, suppress(EOFError):
        while True:
            last = receiver.recv()
    process.join()
    assert process.exitcode in (0, -signal.SIGVTALRM)
    return last if process.exitcode else None


def test_every_pattern_of_the_source_takes_linear_time() -> None:
    found = {(path, str(pattern)): slow(method, pattern) for path, method, pattern in sorted(set(_patterns()), key=str)}
    assert len(found) > 30
    assert {key: text for key, text in found.items() if text is not None} == {}


@pytest.mark.parametrize("pattern", ["(a+)+$", r"\s*[-–]\s*", "(a|a)*b", "^(a*)*$"])  # noqa: RUF001
def test_a_pattern_that_takes_longer_is_found(pattern: str) -> None:
    assert slow("search", pattern) is not None


def test_the_list_of_reasons_names_modules_that_exist() -> None:
    assert all(Path(ROOT / path).exists() for path in NOT_CONSTANT)
