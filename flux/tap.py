"""The twistd commands: from their options to the service that twistd runs.

``flux`` has everything in one process; ``flux-status``, ``flux-chat`` and ``flux-gate``
are its parts in processes of their own.  ``twisted/plugins/flux_plugin.py`` names the four
objects at the end of this module; nothing else of flux is imported for
``twistd --help``.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.application.service import IService
from twisted.python.usage import Options

import flux
from flux.config import ConfigError, Mistake, Settings, load, with_identity
from flux.lifecycle import monotonic
from flux.log import Threshold, observer_for_twistd
from flux.process import Assembly, ExitStatus, FluxProcess
from flux.workers.handover import STARTED
from flux.workers.supervisor import Supervisor, worker_settings


class FluxOptions(Options):
    """What may follow the command's name; :attr:`settings` is what it amounts to."""

    optParameters = [  # noqa: RUF012 - Twisted's way to declare options
        ["config", "c", None, "The configuration file. Every key and its default: etc/flux.ini of the source."],
    ]

    settings: Settings

    def __init__(self, command: Command) -> None:
        super().__init__()
        self.longdesc = command.about
        self._command = command
        self._overrides: list[str] = []
        self._path: Path | None = None
        self.worker = 0

    def opt_set(self, override: str) -> None:
        """SECTION.KEY=VALUE, instead of what the file says. May be given many times."""
        self._overrides.append(override)

    def opt_worker(self, number: str) -> None:
        """For the processes that chat.workers makes this one start, and for nobody else."""
        self.worker = int(number)

    def opt_version(self) -> None:
        """Display the version of flux and exit."""
        print(f"flux {flux.__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Read the configuration.

        :raise SystemExit: it is wrong; all its mistakes go to stderr, the exit status is 1.
        """
        # Absolute, since twistd may change the directory before the file is read again.
        self._path = Path(self["config"]).absolute() if self["config"] else None
        try:
            self.settings = self.load()
        except ConfigError as error:
            raise SystemExit(f"{self._command.name}: {error}") from None

    def load(self) -> Settings:
        """The settings as file and overrides have them now.

        :raise ConfigError: with every mistake.
        """
        settings = load(self._path, self._overrides)
        self._command.refuse(settings)
        settings = with_identity(settings)
        return worker_settings(settings, self.worker) if self.worker else settings

    def of_worker(self, number: int) -> list[str]:
        """The command line of twistd for a worker that has these options."""
        twistd = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "--nodaemon", "--pidfile="]
        if self.parent is not None and self.parent.get("reactor"):
            twistd += ["--reactor", self.parent["reactor"]]
        options = ["--config", str(self._path)] if self._path else []
        for override in self._overrides:
            options += ["--set", override]
        return [*twistd, "flux-chat", *options, "--worker", str(number)]


class Command:
    """A twistd command: the two names that ``ServiceMaker`` looks for, ``Options`` and ``makeService``.

    :param roles: the services it runs: ``status``, ``chat``, ``gate``.
    """

    def __init__(self, name: str, roles: frozenset[str], about: str) -> None:
        self.name = name
        self.roles = roles
        self.about = about

    def Options(self) -> FluxOptions:
        return FluxOptions(self)

    def makeService(self, options: FluxOptions) -> IService:
        from twisted.internet import reactor as installed

        # twistd has scheduled nothing yet.
        reactor = monotonic(installed)
        settings = options.settings
        twistd: Any = options.parent if options.parent is not None else {}
        threshold = Threshold(settings.log.level)

        if options.worker:
            twistd["statusPipe"] = STARTED

        def assemble() -> Assembly:
            from flux.assembly import assemble

            if options.worker or settings.chat.workers == 1 or "chat" not in self.roles:
                return assemble(settings, self.roles, reactor, worker=bool(options.worker))
            inner = None
            if self.roles - {"chat"}:
                admin = replace(settings.admin, listen=settings.admin.endpoint(True))
                inner = assemble(replace(settings, admin=admin), self.roles - {"chat"}, reactor)
            supervisor = Supervisor(settings, options.of_worker, inner, reactor, random.Random())
            if inner is not None:
                inner.reread = lambda by: supervisor.reread(by)
            return supervisor

        service: IService = FluxProcess(
            self.name,
            settings,
            assemble,
            options.load,
            threshold,
            observer_for_twistd(
                twistd, settings.log.format, threshold, reactor, settings.chat.name if options.worker else ""
            ),
            twistd,
            ExitStatus(),
            reactor,
            supervised=bool(options.worker),
        )
        return service

    def refuse(self, settings: Settings) -> None:
        """Refuse what this command cannot do with ``settings``, rather than pretend.

        :raise ConfigError: says what.
        """
        if settings.state.kind == "memory" and self.roles == {"status"}:
            what = (
                "memory is not shared, so flux-status would never hear of a chat server; expected state.kind = redis, "
                "or `twistd flux`, which has both in one process"
            )
            raise ConfigError([Mistake("state.kind", what)])
        if self.roles == {"gate"} and (mistakes := list(_gate_alone(settings))):
            raise ConfigError(mistakes)


def _gate_alone(settings: Settings) -> Iterator[Mistake]:
    """What a gate in a process of its own cannot do without."""
    if settings.state.kind == "memory":
        yield Mistake(
            "state.kind",
            "memory is not shared, so no chat server would know the tokens and codes of flux-gate; expected "
            "state.kind = redis, or `twistd flux`, which has everything in one process",
        )
    if settings.store.kind == "sqlite":
        yield Mistake(
            "store.kind",
            "an SQLite file belongs to one process, the chat server; expected store.kind = postgres, or `twistd flux`, "
            "which has everything in one process",
        )
    if not settings.gate.status:
        yield Mistake("gate.status", "is empty, and there is no status service in flux-gate; expected its host:port")
    if not settings.gate.listen:
        yield Mistake("gate.listen", "is empty; expected where flux-gate is to listen")


flux_all = Command(
    "flux",
    frozenset({"status", "chat", "gate"}),
    "The whole of flux in one process: the chat server, the status service that assigns users to chat servers, and the "
    "HTTP gate where they register and log in.",
)
flux_status = Command(
    "flux-status",
    frozenset({"status"}),
    "The status service alone: knows which chat servers live, assigns users to them and issues login tokens.",
)
flux_chat = Command("flux-chat", frozenset({"chat"}), "A chat server alone.")
flux_gate = Command(
    "flux-gate", frozenset({"gate"}), "The HTTP gate alone: registering, logging in, resetting passwords."
)
