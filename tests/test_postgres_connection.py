"""Connections to PostgreSQL that do not come about."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.protocol import Factory, Protocol

from flux.backends.postgres.connection import Run, connect
from flux.backends.postgres.dsn import Dsn
from flux.errors import Unavailable


class HangsUp(Protocol):
    """A server that goes away while somebody logs in."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.loseConnection()


class Resets(HangsUp):
    def dataReceived(self, data: bytes) -> None:
        self.transport.abortConnection()


class RefusesTls(HangsUp):
    """It says that it cannot do TLS, and goes: libpq wants to write then, and the end is there to be read."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(b"N")
        self.transport.loseConnection()


@pytest_twisted.async_yield_fixture(params=[HangsUp, Resets, RefusesTls])
async def port(request: Any) -> AsyncIterator[int]:
    from twisted.internet import reactor

    factory = Factory.forProtocol(request.param)
    factory.noisy = False
    listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
    yield listening.getHost().port
    await listening.stopListening()


async def test_a_server_that_goes_away_during_the_login_is_one_error(port: int) -> None:
    """And nothing is logged, nor left in the reactor: the fixture of all tests sees to that."""
    from twisted.internet import reactor

    async def prepare(run: Run) -> None:
        raise AssertionError("there is nothing to set up")

    dsn = Dsn(f"postgresql://flux:secret@127.0.0.1:{port}/flux")
    with pytest.raises(Unavailable, match=rf"^unavailable: store\.dsn: 127\.0\.0\.1:{port}: "):
        await connect(dsn, reactor, prepare, lambda link, reason: None)
