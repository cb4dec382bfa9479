from __future__ import annotations

import ast
import functools
import re
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.guard import OutsideConnectionError, is_loopback

TESTS = Path(__file__).resolve().parents[1]
FILES = sorted(TESTS.rglob("test_*.py"))
# Named tuples make the first ones public; argparse knows no other way to a parser's options.
PUBLIC_AFTER_ALL = frozenset(("_asdict", "_exit", "_fields", "_make", "_replace"))
PUBLIC_AFTER_ALL |= {"_actions", "_option_string_actions"}
# Tests that still use private names of s3pool. The list may only become shorter.
PRYING = frozenset(
    (
        "proxy/test_loop.py",
        "proxy/test_settings_at_work.py",
        "unit/pool/test_connections.py",
        "unit/pool/test_window.py",
        "unit/pool/test_http1.py",
        "unit/pool/test_http1_tls.py",
        "unit/s3/test_signing_key.py",
        "unit/sync/test_merge.py",
        "unit/transfer/test_cross_pool_copy.py",
        "unit/transfer/test_safe_path.py",
        "unit/transfer/test_executor.py",
    )
)


@functools.cache  # each file is looked at for several reasons
def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text())


def test_connect_to_another_machine_is_refused() -> None:
    """The tests run where nothing may leave; 192.0.2.1 belongs to nobody."""
    with socket.socket() as sock, pytest.raises(OutsideConnectionError):
        sock.connect(("192.0.2.1", 80))


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("a.b", False)],
)
def test_guard_knows_this_machine(host: str, expected: bool) -> None:
    """Everything else is outside."""
    assert expected == is_loopback(host)


def test_no_test_sleeps() -> None:
    """A sleep is too long on a fast machine and too short on a slow one; polling is not sleeping."""
    sleepers = [f"{path.relative_to(TESTS)}:{line}" for path in FILES for line in sleeping_lines(path)]

    assert [] == sleepers


def sleeping_lines(path: Path) -> set[int]:
    """Give the lines that sleep outside of a loop that looks for something."""
    tree = tree_of(path)
    polling = {line for loop in ast.walk(tree) if isinstance(loop, ast.While) for line in sleeps_in(loop)}
    return sleeps_in(tree) - polling


def sleeps_in(tree: ast.AST) -> set[int]:
    """Give the lines below a node that call sleep."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {call.lineno for call in calls if ast.unparse(call.func) in ("time.sleep", "sleep")}


def test_every_test_says_why() -> None:
    """The name is the behaviour, the docstring its reason."""
    silent = [
        f"{path.relative_to(TESTS)}:{node.lineno} {node.name}"
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node)
    ]

    assert [] == silent


def test_tests_use_public_names() -> None:
    """A private name that a test uses can be changed by nobody."""
    prying = {str(path.relative_to(TESTS)): private_names(tree_of(path)) for path in TESTS.rglob("*.py")}
    found = {name: names for name, names in prying.items() if names and name not in PRYING}

    assert {} == found


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from s3pool.units import parse_size, _scale", ["1 _scale"]),
        ("from .support import _mine", []),
        ("node._slots.clear()", ["1 _slots"]),
        ("monkeypatch.setattr(units, '_scale', None)", ["1 _scale"]),
        ("monkeypatch.setattr('s3pool.units._scale', None)", ["1 _scale"]),
        ("sample._replace(a=1).__dict__", []),
        ("class A:\n def __init__(self): self._b = 1\na._b", []),
    ],
)
def test_private_names_are_found(code: str, expected: list[str]) -> None:
    """By import, by attribute, by replacement; those that the file itself defines are its own."""
    assert expected == private_names(ast.parse(code))


def private_names(tree: ast.AST) -> list[str]:
    """Return the private names that a file uses and does not define, each behind its line."""
    own = {name for node in ast.walk(tree) for name in defined_by(node)} | PUBLIC_AFTER_ALL
    used = sorted({(line, name) for node in ast.walk(tree) for line, name in names_used(node)})
    return [f"{line} {name}" for line, name in used if is_private(name) and name not in own]


def is_private(name: str) -> bool:
    """Return whether a name begins with one underscore."""
    return name.startswith("_") and not name.startswith("__")


def defined_by(node: ast.AST) -> list[str]:
    """Return the names that a node defines: functions, classes, attributes of self."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    is_own = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and of_itself(node)
    return [node.attr] if is_own else []


def of_itself(node: ast.Attribute) -> bool:
    """Return whether an attribute is one of self, cls or super()."""
    return ast.unparse(node.value) in ("self", "cls", "super()")


def names_used(node: ast.AST) -> list[tuple[int, str]]:
    """Return line and name of what a node imports from s3pool, reads from an object or replaces in one."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "s3pool":
        return [(node.lineno, alias.name) for alias in node.names]
    if isinstance(node, ast.Attribute) and not of_itself(node):
        return [(node.lineno, node.attr)]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("setattr", "delattr", "getattr")):
        words = [word.value for word in node.args[:2] if isinstance(word, ast.Constant)]
        return [(node.lineno, word.rpartition(".")[2]) for word in words if isinstance(word, str)]
    return []


def test_ci_runs_every_test() -> None:
    """What make test leaves out for the sake of minutes is judged before anything is merged."""
    root = TESTS.parent

    shown = {
        target: subprocess.run(["make", "-n", target], cwd=root, capture_output=True, text=True, check=True).stdout
        for target in ("test", "test-long", "test-all")
    }
    asked = {target: set(re.findall(r"pytest -m ('[^']*'|\S+)", text)) for target, text in shown.items()}

    assert {"'not live and not long'"} == asked["test"]
    assert {"live", "'long and not live'"} == asked["test-long"]
    assert {"live", "'not live'"} == asked["test-all"]
    assert re.search(r"^\S* ?make test-all \|\|", (root / ".ci" / "run").read_text(), re.MULTILINE)
