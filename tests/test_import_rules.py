"""Who may import whom, and that nobody imports the reactor before it is chosen.

The rules are those of ARCHITECTURE.md.  They hold for every import statement, also
inside functions and under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from server_process import environment

import flux

ROOT = Path(flux.__file__).parent

#: Contracts, values and small leaves that everyone may use; they use each other only.
COMMON = {"addresses", "errors", "interfaces", "model", "names", "tokens"}

#: What each other room may use besides.
MAY_IMPORT: dict[str, set[str]] = {
    "wire": set(),
    "balance": set(),
    "config": {"tls"},
    "log": set(),
    "accounts": {"bans", "config", "ending", "lifecycle", "metrics"},
    "bans": {"config", "lifecycle", "metrics"},
    "ending": {"lifecycle"},
    "metrics": {"lifecycle"},
    "lifecycle": set(),
    "net": {"wire", "lifecycle", "tls"},
    "httpclient": {"lifecycle", "tls"},
    "tls": {"lifecycle", "metrics"},
    "backends": {"httpclient", "lifecycle", "net"},
    "status": {"wire", "net", "balance", "config", "lifecycle", "metrics", "tls"},
    "chat": {"accounts", "bans", "wire", "net", "config", "lifecycle", "metrics", "tls"},
    # It knows the services by what it needs of them.
    "admin": {"bans", "ending", "net", "config", "lifecycle", "metrics"},
    "client": {"httpclient", "wire", "lifecycle", "tls"},
    "gate": {"accounts", "bans", "wire", "net", "config", "lifecycle", "metrics"},
    "web": {"net"},
    "workers": {"config", "net", "lifecycle"},
    "process": {"config", "lifecycle", "log", "workers"},
    # Those who put together and start.
    "assembly": {
        "accounts",
        "admin",
        "backends",
        "balance",
        "bans",
        "chat",
        "config",
        "gate",
        "lifecycle",
        "metrics",
        "net",
        "status",
        "tls",
        "web",
        "wire",
        "workers",
    },
    "tap": {"assembly", "config", "lifecycle", "log", "process", "workers"},
    "cli": {"assembly", "bench", "client", "config", "lifecycle", "tap", "tls", "workers"},
    # It fills a store before it starts a server on it, appends to one through a journal, and runs placement on a
    # simulated clock.
    "bench": {"assembly", "backends", "balance", "chat", "client", "config", "lifecycle", "status", "wire"},
}

#: Pure rooms: not even Twisted's reactor-side modules.
WITHOUT_REACTOR = COMMON | {"wire", "balance"}


class Import(NamedTuple):
    """One imported name, with the line it stands on and whether importing the module is enough to run it."""

    name: str
    line: int
    at_top: bool


def imports(tree: ast.Module, package: str) -> Iterator[Import]:
    """All that a module of ``package`` imports; ``from a import b`` counts as ``a.b``."""

    def visit(node: ast.AST, at_top: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, at_top)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(f"{source}.{alias.name}", node.lineno, at_top)
        inner = at_top and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inner)

    yield from visit(tree, True)


def violations(source: str, path: Path) -> list[str]:
    """The rules that a module of flux breaks; ``path`` is relative to the package."""
    room = path.with_suffix("").parts[0]
    package = ".".join(["flux", *path.parts[:-1]])
    allowed = MAY_IMPORT.get(room, set()) | COMMON | {room}
    found = []
    for name, line, at_top in imports(ast.parse(source), package):
        where = f"flux/{path}:{line}"
        parts = name.split(".")
        if parts[0] == "flux" and len(parts) > 1 and not parts[1].startswith("__") and parts[1] not in allowed:
            found.append(f"{where}: {room} must not import {parts[1]}")
        if name.startswith("twisted.internet.reactor") and at_top:
            found.append(f"{where}: the reactor is imported at the top")
        if parts[:2] == ["twisted", "internet"] and room in WITHOUT_REACTOR:
            found.append(f"{where}: {room} does without twisted.internet")
    return found


MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_every_module_keeps_the_rules(path: Path) -> None:
    assert violations((ROOT / path).read_text("utf-8"), path) == []


def test_every_room_has_a_rule() -> None:
    rooms = {path.with_suffix("").parts[0] for path in MODULES} - {"__init__"}
    assert rooms == set(MAY_IMPORT) | COMMON


@pytest.mark.parametrize(
    ("path", "source", "broken"),
    [
        ("chat/node.py", "from flux.backends.memory import MemoryState", "chat must not import backends"),
        ("chat/node.py", "import flux.status.registry", "chat must not import status"),
        ("chat/node.py", "from flux import backends", "chat must not import backends"),
        ("chat/node.py", "from ..status import registry", "chat must not import status"),
        ("chat/node.py", "def f():\n    from flux.cli import main", "chat must not import cli"),
        ("model/messages.py", "from flux.wire import named", "model must not import wire"),
        ("wire/framing.py", "def f():\n    import twisted.internet.defer", "wire does without twisted.internet"),
        ("net/lines.py", "from twisted.internet import defer, reactor", "the reactor is imported at the top"),
        (
            "net/lines.py",
            "try:\n    import twisted.internet.reactor\nfinally: pass",
            "the reactor is imported at the top",
        ),
        ("net/lines.py", "class A:\n    from twisted.internet import reactor", "the reactor is imported at the top"),
    ],
)
def test_a_broken_rule_is_noticed(path: str, source: str, broken: str) -> None:
    [found] = violations(source, Path(path))
    assert found.endswith(broken)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("chat/node.py", "from flux import __version__\nfrom flux.wire import named\nfrom .session import Session"),
        ("net/lines.py", "def f():\n    from twisted.internet import reactor"),
        ("assembly.py", "from flux.backends.memory import MemoryState"),
    ],
)
def test_a_kept_rule_is_no_violation(path: str, source: str) -> None:
    assert violations(source, Path(path)) == []


def test_importing_all_of_flux_does_not_choose_a_reactor() -> None:
    """Also not by way of a library."""
    program = (
        "import importlib, pkgutil, sys, flux\n"
        "for module in pkgutil.walk_packages(flux.__path__, 'flux.'):\n"
        "    importlib.import_module(module.name)\n"
        "    assert 'twisted.internet.reactor' not in sys.modules, module.name\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
