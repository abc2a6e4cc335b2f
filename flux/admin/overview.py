"""A process at a glance: what the dashboard shows and ``flux admin stats`` prints."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from twisted.internet.interfaces import IReactorTime

import flux
from flux.admin.health import Checked, Health
from flux.admin.history import Curves, History
from flux.admin.sources import Sources
from flux.errors import FluxError, in_words
from flux.model.placement import Node

RATES_OVER = 6
"""Samples over which the rates of now are taken: half a minute."""


class Overview(msgspec.Struct, frozen=True):
    """A process at a glance.

    :ivar process: what it is: version, pid, roles, name of its chat server, seconds since it started.
    :ivar problems: what keeps it from being ready, in words.
    :ivar servers: the chat servers that are known here; ``servers_problem`` says why they may have changed since.
    :ivar numbers: of now, by name; those of services that do not run here are missing.
    :ivar curves: only where they were asked for.
    """

    process: dict[str, Any]
    problems: list[str]
    backends: tuple[Checked, ...]
    servers: tuple[Node, ...]
    servers_problem: str
    numbers: dict[str, float]
    curves: Curves | None = None


class Overviews:
    """Takes them."""

    def __init__(self, sources: Sources, health: Health, history: History, clock: IReactorTime) -> None:
        self._sources = sources
        self._health = health
        self._history = history
        self._clock = clock
        self._started = clock.seconds()

    async def take(self, samples: int) -> Overview:
        """As of now, with the curves of the last ``samples`` samples; 0: without any."""
        problems = await self._health.problems()
        servers_problem = ""
        try:
            servers = await self._sources.directory.look()
        except FluxError as error:
            servers, servers_problem = self._sources.directory.servers(), in_words(error)
        return Overview(
            process={
                "version": flux.__version__,
                "pid": os.getpid(),
                "roles": sorted(self._sources.roles),
                "name": self._sources.name,
                "uptime": round(self._clock.seconds() - self._started, 1),
            },
            problems=problems,
            backends=self._health.backends,
            servers=tuple(sorted(servers, key=lambda node: node.name)),
            servers_problem=servers_problem,
            numbers=self._numbers(),
            curves=self._history.curves(samples) if samples else None,
        )

    def _numbers(self) -> dict[str, float]:
        latest = self._history.latest()
        found = {
            name.removeprefix("flux_"): latest.values[key]
            for name in (
                "flux_sessions", "flux_connections", "flux_sessions_behind", "flux_commits_waiting",
                "process_resident_memory_bytes",
            )
            if (key := (name, "")) in latest.values
        }  # fmt: skip
        bans = [value for (name, _), value in latest.values.items() if name == "flux_bans"]
        if bans:
            found["bans"] = sum(bans)
        return found | self._history.rates(RATES_OVER)
