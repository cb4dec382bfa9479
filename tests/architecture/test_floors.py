from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "s3pool"

FLOORS = {
    "errors": 1,
    "record": 1,
    "units": 2,
    "model": 2,
    "location": 2,
    "body": 2,
    "dialect": 2,
    "endpoint": 2,
    "filters": 2,
    "config": 3,
    "pool": 3,
    "s3": 3,
    "keys": 4,
    "session": 4,
    "tracing": 4,
    "transfer": 4,
    "sync": 5,
    "proxy": 5,
    "speedtest": 5,
    "streams": 5,
    "api": 6,
    "cli": 6,
    "fsspec": 7,
    "__main__": 7,
    "__init__": 0,
}
# What a room may use beside floors 1 and 2 and itself; the entrance may be a single module.
MAY_USE = {
    "config": set(),
    "pool": set(),
    "s3": set(),
    "keys": {"config", "pool.connections", "s3.signing", "s3.documents", "s3.responses"},
    "session": {"config", "keys", "pool", "s3", "tracing"},
    "tracing": {"pool.attempt", "pool.retry"},
    "transfer": {"s3"},
    "sync": {"transfer", "s3"},
    "proxy": {"session", "tracing", "pool", "config", "s3.signing", "s3.documents", "s3.responses"},
    "speedtest": {"transfer", "s3"},
    "streams": {"transfer", "s3"},
    "fsspec": {"api", "streams"},
    "api": {"config", "session", "s3", "streams", "sync", "transfer"},
}
# Libraries that cost start-up time or belong to one room, and the only modules that may name them.
HOMES = {
    "fsspec": ("fsspec.py",),
    "anycrc": ("body.py",),
    "dns": ("pool/resolver.py",),
    "opentelemetry": ("tracing.py",),
    "urllib3": ("pool/connections.py",),
    "requests": (),
    "requests_aws4auth": ("s3/signing.py",),
    "yaml": ("config/*.py",),
    "dotenv": ("config/*.py",),
    "rich": ("cli/*.py", "cli/commands/*.py"),
    "typing_extensions": ("s3/list_all.py", "s3/parallel.py"),  # by type checkers alone
    "sqlite3": ("sync/journal.py", "sync/scan.py", "transfer/resume.py", "transfer/sources.py"),
    "prometheus_client": ("proxy/*.py", "sync/*.py"),
    "concurrent.futures": ("transfer/executor.py",),
    "dataclasses": ("record.py",),
    "http.server": ("proxy/*.py",),
    "socketserver": ("proxy/*.py",),
    "asyncio": (),
    "multiprocessing": (),
    "subprocess": ("cli/commands/*.py", "cli/main.py", "cli/processes.py", "keys.py"),
}
# These are imported where they are used, never when their module is loaded.
LATE = ("anycrc", "dns", "requests_aws4auth", "yaml", "dotenv", "rich", "prometheus_client", "concurrent.futures")
MODULE_LINES = 450
# Floors inside rooms, from the bottom: a module imports from its own floor and from lower ones. One that is
# not named here is bound by the rule against circles alone.
INNER_FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "config": (("values",), ("options",), ("files",), ("aws_files",), ("load",)),
    "pool": (
        ("tcp",),
        ("http1",),
        ("connections",),
        ("node",),
        ("balancer",),
        ("exchange",),
        ("health", "resolver", "retry"),
        ("attempt",),
        ("window",),
        ("transport",),
    ),
    "s3": (
        ("documents", "page_scanner", "requests", "signing"),
        ("pages", "responses"),
        ("operation", "split_points"),
        ("buckets", "sampling"),
        ("client",),
        ("paging",),
        ("key_ranges",),
        ("range_scheduler",),
        ("parallel",),
        ("list_all",),
    ),
    "transfer": (
        ("safe_path", "tasks", "executor"),
        ("metadata", "digests"),
        ("walk", "part_file", "object_reader"),
        ("resume",),
        ("context",),
        ("flow", "multipart", "proofs"),
        ("sources", "upload", "download", "copy"),
        ("runner",),
    ),
    "sync": (("compare",), ("journal", "pair"), ("job", "content"), ("scan",), ("plan",), ("run",)),
    "proxy": (
        ("errors", "settings"),
        ("request", "limits"),
        ("operations", "stream"),
        ("clients", "relay"),
        ("auth",),
        ("auth_v2", "framing"),
        ("bodies", "forms", "forward"),
        ("conditions",),
        ("gateway",),
        ("metrics",),
        ("request_handler",),
        ("event_loop",),
        ("server",),
        ("admin",),
        ("run",),
        ("supervisor",),
    ),
    "speedtest": (("measure",), ("bench",)),
    "cli": (
        ("output", "parser", "progress", "header_flags"),
        ("context", "formats"),
        ("selection",),
        ("search", "transfers"),
        ("commands",),
        ("main",),
    ),
}


@dataclass(frozen=True)
class Import:
    """One import statement: who, what, and whether it runs when the module is loaded."""

    module: str
    target: str
    line: int
    at_load: bool
    for_types: bool


def module_name(path: Path) -> str:
    """Give ``pool.transport`` for s3pool/pool/transport.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def room_of(module: str) -> str:
    """Return the room that a module is in."""
    return module.split(".", maxsplit=1)[0]


def iter_imports(path: Path) -> Iterator[Import]:
    """Yield all imports of a module, those inside functions included."""
    tree = ast.parse(path.read_text())
    yield from _walk(tree, module_name(path), at_load=True, for_types=False)


def _walk(node: ast.AST, module: str, *, at_load: bool, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(module, alias.name, child.lineno, at_load, for_types)
        elif isinstance(child, ast.ImportFrom):
            for alias in child.names:
                target = _resolve(child.module or "", alias.name)
                yield Import(module, target, child.lineno, at_load, for_types)
        else:
            inner = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            typed = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from _walk(child, module, at_load=at_load and not inner, for_types=for_types or typed)


def _resolve(source: str, name: str) -> str:
    """Give the module that ``from source import name`` loads: the name, when it is a module."""
    path = ROOT.joinpath(*source.split("."), name)
    if path.with_suffix(".py").exists() or path.is_dir():
        return f"{source}.{name}"
    return source if source.startswith("s3pool") else f"{source}.{name}"


MODULES = sorted(PACKAGE.rglob("*.py"))
IMPORTS = [found for path in MODULES for found in iter_imports(path)]
INNER = [found for found in IMPORTS if found.target.split(".")[0] == "s3pool" and found.target != "s3pool"]


def within(target: str) -> str:
    """Strip the package's own name."""
    return target.removeprefix("s3pool.")


def test_every_room_has_a_floor() -> None:
    """A new room must say where it stands before anybody moves in."""
    rooms = {room_of(module_name(path)) for path in MODULES}

    assert set() == rooms - FLOORS.keys()


def test_nobody_imports_upward() -> None:
    """What stands below can be understood, and tested, without what stands above."""
    upward = [
        f"{found.module}:{found.line} -> {found.target}"
        for found in INNER
        if FLOORS[room_of(within(found.target))] > FLOORS[room_of(found.module)]
    ]

    assert [] == upward


def test_rooms_use_only_what_they_may() -> None:
    """Neighbours on one floor do not know each other: pool never sees S3, s3 never sees endpoints."""
    strangers = [f"{found.module}:{found.line} -> {found.target}" for found in INNER if not is_allowed(found)]

    assert [] == strangers


def is_allowed(found: Import) -> bool:
    """Say whether one import follows the table."""
    room, target = room_of(found.module), within(found.target)
    other = room_of(target)
    if room in ("cli", "__main__") or other == room or FLOORS[other] <= 2:
        return FLOORS[room] >= FLOORS[other]
    allowed = MAY_USE.get(room, set())
    return other in allowed or any(target == entry or target.startswith(entry + ".") for entry in allowed)


def test_nobody_imports_upward_inside_a_room() -> None:
    """A room is read from the ground, one floor after the other."""
    upward = []
    for found in INNER:
        room, target = room_of(found.module), within(found.target)
        floors = INNER_FLOORS.get(room, ())
        own, other = (floor_inside(module, floors) for module in (found.module, target))
        if room_of(target) == room and own is not None and other is not None and other > own:
            upward.append(f"{found.module}:{found.line} -> {target}")

    assert [] == upward


def floor_inside(module: str, floors: tuple[tuple[str, ...], ...]) -> int | None:
    """Return the floor of a module in its room, None where the table has none for it."""
    name = module.partition(".")[2].partition(".")[0]
    return next((number for number, names in enumerate(floors) if name in names), None)


def test_only_the_entrance_imports_the_command_line() -> None:
    """Nobody imports cli: it is the top."""
    users = [found.module for found in INNER if room_of(within(found.target)) == "cli"]

    assert {"cli", "__main__"} >= {room_of(module) for module in users}


def test_errors_need_nothing_of_the_program() -> None:
    """The first floor stands on the standard library alone."""
    targets = [found.target for found in INNER if FLOORS[room_of(found.module)] == 1]

    assert [] == [target for target in targets if FLOORS[room_of(within(target))] >= 1 and within(target) != "errors"]


def test_no_imports_run_in_a_circle() -> None:
    """A circle has no ground floor; imports for types alone and late ones count as well."""
    graph: dict[str, set[str]] = {}
    for found in INNER:
        if within(found.target) != found.module:
            graph.setdefault(found.module, set()).add(within(found.target))

    assert set() == find_circles(graph)


def find_circles(graph: Mapping[str, Collection[str]]) -> set[tuple[str, ...]]:
    """Return the circles: sets of modules each of which leads to all others, in alphabetical order."""
    reached = {start: reachable(graph, start) for start in graph}
    return {
        tuple(sorted(other for other in around if start in reached.get(other, ())))
        for start, around in reached.items()
        if start in around
    }


def reachable(graph: Mapping[str, Collection[str]], start: str) -> set[str]:
    """Return what a module imports, directly or by way of others."""
    found: set[str] = set()
    ahead = [*graph.get(start, ())]
    while ahead:
        module = ahead.pop()
        if module not in found:
            found.add(module)
            ahead += graph.get(module, ())
    return found


def test_a_circle_would_be_found() -> None:
    """The judge itself is judged."""
    assert {("a", "b", "c")} == find_circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})
    assert set() == find_circles({"a": {"b", "c"}, "b": {"c"}})


@pytest.mark.parametrize("library", sorted(HOMES))
def test_library_stays_in_its_room(library: str) -> None:
    """A second user would make start-up slow, or a second HTTP stack."""
    users = {
        module_path(found.module)
        for found in IMPORTS
        if not found.for_types and (found.target == library or found.target.startswith(library + "."))
    }

    assert set() == {user for user in users if not any(Path(user).match(home) for home in HOMES[library])}


@pytest.mark.parametrize("library", LATE)
def test_slow_library_is_imported_late(library: str) -> None:
    """It is paid for by the commands that use it, when they do."""
    early = [
        f"{found.module}:{found.line}"
        for found in IMPORTS
        if found.at_load and not found.for_types and (found.target + ".").startswith(library + ".")
    ]

    assert [] == early


def module_path(module: str) -> str:
    """Give the file of a module, relative to the package."""
    path = Path(*module.split("."))
    return str(path / "__init__.py" if (PACKAGE / path).is_dir() else path.with_suffix(".py"))


def test_only_known_libraries_are_used() -> None:
    """Every dependency stands in setup.cfg, and has a home above."""
    known = {*sys.stdlib_module_names, "s3pool", *(library.split(".")[0] for library in HOMES)}

    assert set() == {found.target.split(".")[0] for found in IMPORTS} - known


def test_only_the_command_line_talks_to_the_terminal() -> None:
    """Below cli nobody prints, exits or reads the command line's words."""
    talkers = [
        f"{module_name(path)}:{node.lineno}"
        for path in MODULES
        if room_of(module_name(path)) not in ("cli", "__main__")
        for node in ast.walk(ast.parse(path.read_text()))
        if is_talk(node)
    ]

    assert [] == talkers


def is_talk(node: ast.AST) -> bool:
    """Say whether a node prints, asks, exits, or looks at sys.argv and its streams."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in ("print", "input", "exit", "quit")
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sys":
        return node.attr in ("argv", "exit", "stdout", "stderr", "stdin")
    return False


def test_modules_stay_readable() -> None:
    """Nobody understands a module of a thousand lines."""
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in MODULES}

    assert {} == {name: length for name, length in lengths.items() if length > MODULE_LINES}
