"""What ``flux check`` tries of the things that a configuration names."""

from __future__ import annotations

import random
import time
from typing import Any

from flux.accounts.rules import check_email
from flux.addresses import HostPort
from flux.assembly.backends import make_mailer, make_state, make_store, make_trust
from flux.assembly.chat import advertised
from flux.backends.postgres import PostgresStore
from flux.backends.redis import check_redis
from flux.backends.sqlite import check_sqlite
from flux.balance import load_balancer
from flux.chat.naming import find_free
from flux.config import Settings, listens_on
from flux.errors import Unavailable
from flux.gate.status_client import StatusClient
from flux.gate.status_connection import Lost
from flux.lifecycle import CannotStart
from flux.model.checks import Step
from flux.tls.client import tls_endpoints
from flux.tls.identity import BadIdentity, read_identity
from flux.tls.server import describe, server_options
from flux.workers.supervisor import worker_settings


def checks(settings: Settings, reactor: Any, roles: frozenset[str]) -> list[Step]:
    """What ``flux check`` tries of the backends that a process of these roles uses."""
    steps = store_checks(settings, reactor) if roles & {"chat", "gate"} else []
    shared = settings.state
    if shared.kind == "redis":
        try:
            found = check_redis(shared.url, shared.prefix, shared.ca, reactor)
        except Unavailable as problem:
            raise CannotStart(problem.detail) from None
        steps += [step.of("state redis") for step in found]
    else:
        state, bus = make_state(settings, reactor)
        steps += [
            Step(f"state {settings.state.kind}: starts", state.start),
            Step(f"bus of state {settings.state.kind}: starts", bus.start),
            Step("bus: stops", bus.stop),
            Step("state: stops", state.stop),
        ]
    if "chat" in roles and shared.kind != "memory":
        steps += name_checks(settings, reactor)
    if "status" in roles:
        steps.append(balancer_check(settings.status.balancer))
    if "gate" in roles and settings.gate.listen:
        steps += gate_checks(settings, reactor)
    return steps


def name_checks(settings: Settings, reactor: Any) -> list[Step]:
    """What ``flux check`` says of the names that chat servers with these settings will have."""
    listens, workers = listens_on(settings.chat.listen), settings.chat.workers

    def address(number: int) -> HostPort | None:
        """Where clients will be told to connect, if everything is free."""
        if listens is None:
            return settings.chat.advertise if not number else None
        return advertised(settings.chat, listens._replace(port=listens.port + number), listens.port)

    def check(name: str, number: int) -> Step:
        async def check() -> str:
            state, _ = make_state(settings, reactor)
            await state.start()
            try:
                await find_free(state, name, address(number), settings.status.heartbeat, reactor)
            finally:
                await state.stop()
            return "no live chat server has it"

        return Step(f"chat.name {name}", check, settings.status.lease)

    numbers = range(1, workers + 1) if workers > 1 else [0]
    names = {
        number: worker_settings(settings, number).chat.name if number else settings.chat.name for number in numbers
    }
    return [check(name, number) for number, name in names.items()]


def store_checks(settings: Settings, reactor: Any) -> list[Step]:
    """What ``flux check`` tries of the store."""
    if settings.store.kind == "sqlite":
        path = settings.store.path
        return [step.of(f"store {path}") for step in check_sqlite(path, reactor)]
    store = make_store(settings, reactor)
    if isinstance(store, PostgresStore):
        return [step.of("store postgres") for step in store.checks()]
    return [Step("store: starts", store.start), Step("store: stops", store.stop)]


def balancer_check(name_or_path: str) -> Step:
    """What ``flux check`` tries of the balancer."""

    async def check() -> None:
        try:
            load_balancer(name_or_path, random.Random())
        except ValueError as problem:
            raise Unavailable(f"status.balancer: {problem}") from None

    return Step(f"balancer {name_or_path}", check)


def tls_checks(settings: Settings) -> list[Step]:
    """What ``flux check`` says of the certificate, which has to be one that a process can listen with."""
    path, tls = settings.tls.certificate, settings.tls
    if path is None:
        return []

    async def check() -> str:
        try:
            identity = read_identity(path, tls.key)
            server_options(identity)
        except BadIdentity as problem:
            raise Unavailable(f"tls.{problem.part}: {problem}") from None
        now = time.time()
        if invalid := identity.invalid(now):
            raise Unavailable(f"tls.certificate: {path} {invalid}")
        about = f"it is {describe(identity, now)}" + ("; renew it" if identity.days_left(now) < tls.warn_days else "")
        return f"{about}\nfor {', '.join(tls.listeners) or 'no listener'} (tls.listeners)"

    return [Step(f"certificate {path}", check)]


def gate_checks(settings: Settings, reactor: Any) -> list[Step]:
    """What ``flux check`` tries of what the gate needs."""
    mailer = make_mailer(settings, reactor)
    trust = make_trust("tls.ca", settings.tls.ca)

    async def check_mailer() -> str:
        await mailer.start()
        return await mailer.check()

    def check_status(address: HostPort) -> Step:
        async def check() -> None:
            try:
                endpoint = tls_endpoints(reactor, trust) if settings.gate.status_tls else None
                await StatusClient(reactor, (), settings.status.cluster_key, endpoint=endpoint).check(address)
            except Lost as problem:
                raise Unavailable(f"{problem}\nStart that service, or correct gate.status.") from problem

        return Step(f"status service {address} of gate.status", check)

    return [Step(f"mailer {settings.mail.kind}", check_mailer), *map(check_status, settings.gate.status)]


def mail_check(settings: Settings, reactor: Any, to: str) -> Step:
    """A step of ``flux check`` that sends an e-mail."""
    mailer = make_mailer(settings, reactor)

    async def send() -> str:
        await mailer.start()
        check_email(to)
        await mailer.send(to, "A test of flux", "This e-mail was sent by `flux check`. The mailer works.\n")
        return "sent" if settings.sends_mail else "in the log"

    return Step(f"e-mail to {to}", send)
