"""Statements on one connection, against PostgreSQL: answers, errors, large ones, and every way in which it ends."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import AsyncIterator
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionLost
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from txpostgres.txpostgres import Connection

from flux.backends.postgres.channel import Channel
from flux.bench.engines import PostgresServer


class Slow:
    """A connection of psycopg2 whose user is so slow that the answer is there when it first looks."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def poll(self) -> int:
        select.select([self._connection], [], [], 0.5)
        state: int = self._connection.poll()
        return state


class Opened:
    """A channel and what it told; who is told closes it."""

    def __init__(self, connection: Any, reactor: Any) -> None:
        self.connection = connection
        self.reactor = reactor
        self.dead: list[str] = []
        self.channel = Channel(connection, reactor, self.died)

    def died(self, why: str) -> None:
        self.dead.append(why)
        self.channel.close()

    async def rows(self, statement: str, *values: object) -> Any:
        return (await self.channel.run(statement, values or None)).fetchall()

    async def until_dead(self) -> None:
        while not self.dead:
            await deferLater(self.reactor, 0.001)

    @property
    def watched(self) -> bool:
        return self.channel in [*self.reactor.getReaders(), *self.reactor.getWriters()]


async def opened(server: PostgresServer) -> Opened:
    from twisted.internet import reactor

    # Of txpostgres, as Link opens it.
    opening: Any = Connection(reactor)
    await opening.connect(server.dsn)
    reactor.removeReader(opening)  # type: ignore[attr-defined]  # Twisted's is a module to mypy
    return Opened(opening._connection, reactor)


@pytest_twisted.async_yield_fixture
async def one(quick_postgres: PostgresServer) -> AsyncIterator[Opened]:
    one = await opened(quick_postgres)
    yield one
    one.channel.close()
    assert not one.watched


async def test_one_statement_after_the_other(one: Opened) -> None:
    assert await one.rows("SELECT %s::int + 1", 41) == [(42,)]
    assert await one.rows("SELECT generate_series(1, 3)") == [(1,), (2,), (3,)]
    assert one.dead == []


async def test_no_answer_comes_at_once_however_fast_the_server_is(one: Opened) -> None:
    one.channel._connection = Slow(one.connection)
    answer = one.channel.run("SELECT 1", None)
    assert not answer.called
    assert (await answer).fetchall() == [(1,)]


async def test_an_error_is_the_statements_own(one: Opened) -> None:
    with pytest.raises(psycopg2.errors.DivisionByZero):
        await one.rows("SELECT 1 / 0")
    with pytest.raises(psycopg2.errors.QueryCanceled) as cancelled:
        await one.rows("SET statement_timeout = 10; SELECT pg_sleep(60)")
    assert cancelled.value.pgcode == "57014"
    with pytest.raises(ValueError, match="NUL"):
        await one.rows("SELECT %s", "\0")
    assert await one.rows("SELECT 1") == [(1,)]
    assert one.dead == []


async def test_a_second_statement_is_refused_and_harms_nothing(one: Opened) -> None:
    first = one.channel.run("SELECT pg_sleep(0.05)::text, 1", None)
    with pytest.raises(psycopg2.ProgrammingError, match="under way"):
        await one.rows("SELECT 2")
    assert (await first).fetchall() == [("", 1)]
    # The same where libpq has the whole answer, and it was not told yet.
    one.channel._connection = Slow(one.connection)
    first = one.channel.run("SELECT 1", None)
    with pytest.raises(psycopg2.ProgrammingError, match="under way"):
        await one.rows("SELECT 2")
    assert (await first).fetchall() == [(1,)]


async def test_what_does_not_fit_into_the_socket_is_sent_as_there_is_room(one: Opened) -> None:
    text = "x" * 30_000_000
    answer = one.channel.run("SELECT length(%s), %s", (text, text))
    assert one.channel in one.reactor.getWriters()
    [(length, back)] = (await answer).fetchall()
    assert (length, back) == (len(text), text)
    assert one.channel not in one.reactor.getWriters()
    assert one.channel in one.reactor.getReaders()


async def test_who_does_not_wait_any_longer_leaves_the_statement_alone(one: Opened) -> None:
    await one.channel.run("CREATE TEMPORARY TABLE done AS SELECT WHERE false", None)
    answer = one.channel.run("INSERT INTO done SELECT FROM pg_sleep(0.05)", None)
    answer.cancel()
    with pytest.raises(CancelledError):
        await answer
    while one.connection.isexecuting():
        await deferLater(one.reactor, 0.001)
    assert await one.rows("SELECT count(*) FROM done") == [(1,)]


async def test_a_connection_that_the_driver_has_given_up_is_dead_whatever_it_raises(one: Opened) -> None:

    class GivenUp(Slow):
        """It cannot be used any more after an error that is not about the connection."""

        closed = 2

        def poll(self) -> int:
            raise psycopg2.InternalError("the server goes")

    one.channel._connection = GivenUp(one.connection)
    with pytest.raises(psycopg2.InternalError):
        await one.rows("SELECT 1")
    assert len(one.dead) == 1


async def test_a_socket_that_the_reactor_does_not_take_is_closed(one: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = os.dup

    def dup(number: int) -> int:
        made.append(real(number))
        return made[-1]

    class Full:
        def addReader(self, reader: object) -> None:  # noqa: N802 - Twisted's name
            raise OSError(errno.ENOSPC, "no more can be watched")

    monkeypatch.setattr("flux.backends.postgres.channel.os.dup", dup)
    with pytest.raises(OSError, match="watched"):
        Channel(one.connection, Full(), one.died)
    [number] = made
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


@pytest.mark.parametrize("running", [False, True], ids=["idle", "running"])
async def test_a_connection_that_the_server_ends(one: Opened, quick_postgres: PostgresServer, running: bool) -> None:
    [(pid,)] = await one.rows("SELECT pg_backend_pid()")
    answer = one.channel.run("SELECT pg_sleep(60)", None) if running else None
    other = await opened(quick_postgres)
    assert await other.rows("SELECT pg_terminate_backend(%s)", pid) == [(True,)]
    other.channel.close()
    if answer is not None:
        with pytest.raises(psycopg2.OperationalError, match="terminating connection"):
            await answer
    await one.until_dead()
    [why] = one.dead
    assert "terminat" in why or "closed the connection" in why


async def test_closing_ends_the_statement(one: Opened) -> None:
    answer = one.channel.run("SELECT pg_sleep(60)", None)
    one.channel.close()
    one.channel.close()
    with pytest.raises(psycopg2.InterfaceError, match="closed"):
        await answer
    assert one.dead == []
    assert one.channel.fileno() == -1


async def test_an_answer_that_was_told_is_not_told_to_the_next(one: Opened) -> None:
    """Where the first answer was there at once, its turn comes; by then another statement may run."""
    one.channel._connection = Slow(one.connection)
    answer = one.channel.run("SELECT 1", None)
    one.channel._connection = one.connection
    # Something else comes in before the reactor's next turn, which tells it.
    one.channel.doRead()
    assert (await answer).fetchall() == [(1,)]
    following = one.channel.run("SELECT pg_sleep(0.05)::text, 2", None)
    # The turn of the first.
    await deferLater(one.reactor, 0)
    assert not following.called
    assert (await following).fetchall() == [("", 2)]


async def test_a_socket_that_the_reactor_gives_up(one: Opened) -> None:
    answer = one.channel.run("SELECT pg_sleep(60)", None)
    one.channel.connectionLost(Failure(ConnectionLost()))
    with pytest.raises(psycopg2.OperationalError, match="non-clean"):
        await answer
    assert len(one.dead) == 1
    one.channel.connectionLost(Failure(ConnectionLost()))
    assert len(one.dead) == 1
