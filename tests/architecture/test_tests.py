from __future__ import annotations

import ast
import socket
from pathlib import Path

import pytest

from tests.support.guard import OutsideConnectionError, is_loopback

TESTS = Path(__file__).resolve().parents[1]
FILES = sorted(TESTS.rglob("test_*.py"))


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
    tree = ast.parse(path.read_text())
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
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node)
    ]

    assert [] == silent
