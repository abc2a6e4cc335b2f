"""The ``flux`` command: finds the subcommand's module and runs it.

A module of the table has ``configure(parser)``, which declares its arguments, and
``run(args)``, which returns the exit status.  Only the module that is called is
imported, so ``flux --help`` is quick.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

import flux
from flux.cli.output import Output

#: Name: (module, one line of help).
COMMANDS = {
    "chat": ("flux.cli.chat", "chat from the terminal"),
    "check": ("flux.cli.check", "check a configuration and try everything it names"),
    "bench": ("flux.cli.bench", "measure throughput and latency against a bare relay"),
    "bench nodes": ("flux.cli.bench_nodes", "measure messages between nodes, and storms of connections"),
    "bench store": ("flux.cli.bench_store", "measure what group commit and a pool of connections bring"),
    "migrate": ("flux.cli.migrate", "see and apply changes of the database's schema"),
    "backup": ("flux.cli.backup", "copy the SQLite database of a running server"),
    "copy": ("flux.cli.copy", "move an installation from SQLite to PostgreSQL, or back"),
    "balance": ("flux.cli.balance", "see how evenly the balancers spread users"),
    "admin": ("flux.cli.admin", "see and direct what runs: servers, sessions, users, configuration"),
    "verify": ("flux.cli.verify", "let servers fail under load and look for lost messages"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``flux ARGUMENTS`` and return its exit status.

    :raises SystemExit: with the status, where there is nothing to run or nowhere to write to.
    """
    # It is None where it was closed (>&-).
    output: Any = Output(sys.stdout or io.StringIO())
    with redirect_stdout(output):
        try:
            status = _run(arguments)
        except KeyboardInterrupt:
            status = 130
        finally:
            output.flush()
    return output.status or status


def _run(arguments: Sequence[str] | None) -> int:
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="flux",
        usage="flux COMMAND [ARGUMENTS]",
        description="commands:\n" + "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()),
        epilog="flux COMMAND --help tells more of one. The server is started with: twistd -n flux",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"flux {flux.__version__}")
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help(sys.stderr)
        return 2
    called = parser.parse_args(arguments)

    name, rest = called.command, called.arguments
    if rest and f"{name} {rest[0]}" in COMMANDS:
        name, rest = f"{name} {rest[0]}", rest[1:]
    module_name, text = COMMANDS[name]
    module = import_module(module_name)
    command = argparse.ArgumentParser(prog=f"flux {name}", description=text)
    module.configure(command)
    status: int = module.run(command.parse_args(rest))
    return status
