"""``flux check``: is the configuration right, and does everything it names work?

Reads the configuration as the server would, then tries each thing it names, one
line a step::

    ok          3 ms  configuration
    ok         12 ms  store: opens
    FAILED      1 ms  chat.listen tcp:8090:interface=127.0.0.1
                      Couldn't listen on 127.0.0.1:8090: [Errno 98] Address already in use.
                      Is the server running already? Stop it, or choose another chat.listen.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, serverFromString
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from flux.addresses import HostPort
from flux.cli.shown import shown
from flux.config import ChatServer, ConfigError, Settings, load
from flux.errors import in_words
from flux.lifecycle import CannotStart, insulated, react, within
from flux.model.checks import Step
from flux.tap import flux_all, flux_chat, flux_gate, flux_status
from flux.tls.client import TlsEndpoint, Trust

#: What a file may be for: as twistd has it.
PARTS = {"flux": flux_all, "chat": flux_chat, "status": flux_status, "gate": flux_gate}

#: A step that takes longer has failed, in seconds.
STEP_WITHIN = 10.0


class CheckFailed(Exception):
    """A step failed; the text says what is wrong and, on a line of its own, what to do."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``flux check``."""
    parser.add_argument("-c", "--config", metavar="FILE", help="the configuration file")
    parser.add_argument(
        "--set",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="instead of what the file says; may be given many times",
    )
    parser.add_argument(
        "--part",
        choices=PARTS,
        default="flux",
        help="try only what this part opens and uses: chat for twistd flux-chat, status for flux-status, gate for "
        "flux-gate (flux, which has them all)",
    )
    parser.add_argument("--mail", metavar="ADDRESS", default="", help="send an e-mail to ADDRESS with the mailer")


def run(args: argparse.Namespace) -> int:
    """Check, and return 0 if everything is right, else 1."""
    began = time.monotonic()
    part = PARTS[args.part]
    try:
        settings = load(args.config, args.overrides)
        part.refuse(settings)
    except ConfigError as error:
        print(_line("FAILED", time.monotonic() - began, "configuration", str(error)))
        return 1
    print(_line("ok", time.monotonic() - began, "configuration"))
    status = 1

    async def check(reactor: Any) -> None:
        nonlocal status
        try:
            everything = steps(settings, reactor, args.mail, part.roles)
        except CannotStart as error:
            print(_line("FAILED", 0, "backends", str(error)))
            return
        status = 0 if await attempt(everything, reactor) else 1

    try:
        react(check)
    except SystemExit:  # which is how react always ends, with 0 also when it was interrupted
        return status


def steps(settings: Settings, reactor: Any, mail_to: str = "", roles: frozenset[str] = flux_all.roles) -> list[Step]:
    """All that ``settings`` name: what stores, shares and sends, where it listens, whom it asks.

    :param mail_to: send an e-mail there, too.
    :param roles: of the process that the settings are for; what others do is not tried.

    :raise CannotStart: a backend that is named does not exist.
    """
    from flux.assembly import checks, mail_check, tls_checks

    listening = [
        ("chat", "chat.listen", settings.chat.listen),
        ("chat", "chat.websocket", settings.chat.websocket),
        ("status", "status.listen", settings.status.listen),
        ("gate", "gate.listen", settings.gate.listen),
    ]
    ports = [(key, endpoint) for role, key, endpoint in listening if role in roles]
    ports.append(("admin.listen", settings.admin.endpoint({"status", "chat"} <= roles)))
    return [
        *tls_checks(settings),
        *checks(settings, reactor, roles),
        *([mail_check(settings, reactor, mail_to)] if mail_to else []),
        *(
            Step(f"{key} {endpoint}", partial(can_listen, key, endpoint, reactor))
            for key, endpoint in ports
            if endpoint
        ),
        *(
            Step(
                f"chat server {server.name} at {HostPort(server.host, server.port)}",
                partial(answers, server, settings, reactor),
            )
            for server in settings.chatservers
            if "status" in roles
        ),
    ]


async def attempt(steps: Iterable[Step], clock: IReactorTime) -> bool:
    """Try ``steps`` one after the other, a line each; whether all went well."""
    good = True
    for step in steps:
        began = clock.seconds()
        try:
            result = await within(STEP_WITHIN + step.longer, step.attempt(), clock, step.name)
        except Exception as error:
            good = False
            print(_line("FAILED", clock.seconds() - began, step.name, in_words(error)))
        else:
            print(_line("ok", clock.seconds() - began, step.name, result if isinstance(result, str) else ""))
    return good


def _line(outcome: str, seconds: float, name: str, text: str = "") -> str:
    first = f"{outcome:<6} {seconds * 1000:>7.0f} ms  {shown(name)}"
    return "\n".join([first, *(f"{'':19}{shown(line)}" for line in text.splitlines())])


async def can_listen(key: str, endpoint: str, reactor: Any) -> None:
    """Listen on ``endpoint`` for a moment.

    :raise CheckFailed: somebody else does, or we may not.
    """
    try:
        port = await serverFromString(reactor, endpoint).listen(Factory.forProtocol(Protocol))
    except Exception as error:
        advice = f"Is the server running already? Stop it, or choose another {key}."
        raise CheckFailed(f"{error}\n{advice}") from error
    # Typed as returning nothing or a Deferred; a listening TCP or UNIX port returns a Deferred.
    await port.stopListening()


class _Visit(Protocol):
    """A connection that is closed as soon as it stands."""

    def __init__(self) -> None:
        self.gone: Deferred[None] = Deferred()

    def abort(self) -> None:
        assert ITCPTransport.providedBy(self.transport)
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone.callback(None)


async def answers(server: ChatServer, settings: Settings, reactor: Any) -> None:
    """Connect to a server of the static list within ``status.check_timeout``.

    :raise CheckFailed: nobody listens there, or not as the list says.
    """
    endpoint: IStreamClientEndpoint = HostnameEndpoint(reactor, server.host, server.port, settings.status.check_timeout)
    if server.tls:
        endpoint = TlsEndpoint(endpoint, server.host, Trust(settings.tls.ca), reactor)
    try:
        visit = await insulated(connectProtocol(endpoint, _Visit()))
    except CancelledError:
        raise
    except Exception as error:
        advice = f"Start that server, or correct {server.name}.host and {server.name}.port."
        raise CheckFailed(f"{str(error) or type(error).__name__}\n{advice}") from error
    visit.abort()
    await visit.gone
