"""One connection: opened, set up, lost.

::

    connect() ──> set up: what is this server? ──> run(statement) ...
                                                     │ the server went, or the deadline of a call
                                                     v
                                                  lost(link): the pool makes another

txpostgres opens the connection, and a :class:`~flux.backends.postgres.channel.Channel` runs the statements.  One is
never cancelled: who does not want to wait any longer closes the connection.

Where the network swallows and delivers later, a statement may reach the server long after that, and would be
executed: a login would take a session number from who has logged in elsewhere meanwhile, and a message would be
stored after its sender was refused.  Statements for which that must not be say in the server's time until when they
are wanted (:data:`WANTED`).
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import psycopg2
from psycopg2.errorcodes import INVALID_TEXT_REPRESENTATION
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from txpostgres.txpostgres import Connection

from flux.backends.postgres.channel import Channel
from flux.backends.postgres.dsn import Address, Dsn
from flux.backends.postgres.failures import away, first_line, in_full, unavailable
from flux.errors import Unavailable
from flux.lifecycle import DeadlineExceeded, within

T = TypeVar("T")

CONNECT_WITHIN = 5.0
"""Seconds until a server that does not answer is given up, and the next address is tried."""

Row = tuple[Any, ...]
Values = Sequence[object] | Mapping[str, object]

_numbers = itertools.count(1)


GIVEN_UP = "given up before it arrived"

WANTED = f"CASE WHEN now_ms() > %s THEN '{GIVEN_UP}' ELSE '1' END::int = 1"
"""A condition that fails, and with it the statement, when nobody waits for it any more. It is checked for each row, so
after a function that makes the rows. Its value is the last one of the statement, and is put in by the connection."""

FOREVER = 2**62
"""In ms: for statements that nobody gives up."""


class Prepared:
    """A statement that each connection plans once. The server must be able to tell the types of its values.

    :param text: with ``%s`` for values.
    :ivar until: whether the last value is until when it is wanted, in the server's time.
    """

    def __init__(self, text: str, until: bool = False) -> None:
        self.until = until
        count = itertools.count(1)
        self.text = re.sub("%s", lambda _: f"${next(count)}", text)
        self.name = f"flux{next(_numbers)}"
        self.call = f"EXECUTE {self.name} ({', '.join(['%s'] * (next(count) - 1))})"


class Run(Protocol):
    """Runs a statement that returns rows."""

    def __call__(self, statement: str | Prepared, values: Values = ()) -> Awaitable[list[Row]]:
        """:raises psycopg2.Error: as the server says; for what is not the statement's fault ``Unavailable``."""


class _Opening(Connection):  # type: ignore[misc]  # txpostgres has no types
    """txpostgres' connection while it is made, without two of its flaws."""

    def doRead(self) -> None:
        """Go on, and be watched for what libpq waits for and nothing else.

        Where writing fails, libpq closes the socket, and a reader that is left would pass for the next one with the
        same file number, which would then never be read.
        """
        self.reactor.removeReader(self)
        if not self._connection.closed:
            self.continuePolling()

    def close(self) -> None:
        """Close it, also where it was not begun."""
        if self._connection is not None:
            super().close()

    def opened(self) -> Any:
        """The connection of psycopg2, which the reactor does not watch any more."""
        self.reactor.removeReader(self)
        return self._connection


class Link:
    """An open connection, until it is lost or closed.

    :param lost: called once when the server, or the way to it, has gone; not after :meth:`close`.
    :ivar expires: on the reactor's clock, when who waits for what is run now gives it up; None: never.
    """

    def __init__(self, reactor: Any, lost: Callable[[Link, str], None]) -> None:
        self._reactor = reactor
        self._tell = lost
        self._opening = _Opening(reactor)
        self._channel: Channel | None = None
        self._prepared: set[str] = set()
        self._ahead = 0.0
        self.closed = False
        self.expires: float | None = None

    async def connect(self, parameters: dict[str, str]) -> None:
        """Connect. :raises psycopg2.Error: as the server says."""
        await _shielded(self._opening.connect(**parameters))
        try:
            self._channel = Channel(self._opening.opened(), self._reactor, self.abandon)
        except OSError as error:
            # One more file than this process may open, or watch.
            raise psycopg2.OperationalError(error.strerror) from error

    def close(self) -> None:
        """Close the connection, whatever it is doing."""
        self.closed = True
        if self._channel is not None:
            self._channel.close()
        else:
            self._opening.close()

    def abandon(self, reason: str) -> None:
        """Close the connection, and tell that it is lost."""
        if not self.closed:
            self.closed = True
            # First, for closing it ends the statement that runs, and after that the next call gets a connection.
            self._tell(self, reason)
            self.close()

    async def run(self, statement: str | Prepared, values: Values = ()) -> list[Row]:
        """See :class:`Run`."""
        if isinstance(statement, Prepared):
            if statement.name not in self._prepared:
                await self.execute(f"PREPARE {statement.name} AS {statement.text}")
                self._prepared.add(statement.name)
            if statement.until:
                values = (*values, self._until())
            statement = statement.call
        rows: list[Row] = (await self._run(statement, values)).fetchall()
        return rows

    async def read_clock(self) -> None:
        """Find out how far the server's clock is ahead of ours. It is not the computer's, which may be set."""
        [[there]] = await self.run("SELECT extract(epoch FROM clock_timestamp())::float8")
        self._ahead = there - time.monotonic()

    def _until(self) -> int:
        if self.expires is None:
            return FOREVER
        left = self.expires - self._reactor.seconds()
        return int((time.monotonic() + left + self._ahead) * 1000)

    async def execute(self, script: str, values: Values = ()) -> None:
        """Run statements that return nothing."""
        await self._run(script, values)

    async def _run(self, statement: str, values: Values) -> Any:
        if self.closed:
            raise _gone()
        assert self._channel is not None
        try:
            return await self._channel.run(statement, values or None)
        except Exception as error:
            if self.closed:
                raise _gone() from None
            if isinstance(error, psycopg2.Error):
                if error.pgcode == INVALID_TEXT_REPRESENTATION and GIVEN_UP in first_line(error):
                    # It is still wanted here, so the server's clock was set: another connection will know its time.
                    self.abandon("the clock of the database was set")
                    raise _gone() from None
                if told := unavailable(error):
                    raise told from error
            raise


def bounded(run: Run, seconds: float, clock: IReactorTime) -> Run:
    """The same, where every statement has a deadline: it goes on, but is not waited for.

    Nothing else can be run on the connection then.
    """

    async def in_time(statement: str | Prepared, values: Values = ()) -> list[Row]:
        try:
            return await within(seconds, run(statement, values), clock, "a statement")
        except DeadlineExceeded:
            raise Unavailable(f"the database did not answer within {seconds:g} s") from None

    return in_time


async def connect(
    dsn: Dsn, reactor: Any, prepare: Callable[[Run], Awaitable[None]], lost: Callable[[Link, str], None]
) -> Link:
    """A connection to the first server of ``dsn`` that takes it.

    :param prepare: sets it up.
    :raises Unavailable: there is none; says why, beginning with the setting.
    """
    complaints = []
    for address in await dsn.addresses(reactor):
        link = Link(reactor, lost)
        try:
            await _connect(link, address, reactor, prepare)
        except Unavailable as error:
            complaints.append(f"store.dsn: {address.name}: {in_full(error)}")
        except BaseException:
            link.close()
            raise
        else:
            return link
    raise Unavailable("; ".join(dict.fromkeys(complaints)))


async def _connect(link: Link, address: Address, reactor: Any, prepare: Callable[[Run], Awaitable[None]]) -> None:
    timer = reactor.callLater(CONNECT_WITHIN, link.close)
    try:
        await link.connect(address.parameters)
        await prepare(link.run)
        await link.read_clock()
    except Exception as error:
        late = not timer.active()
        link.close()
        if late:
            raise Unavailable(f"no answer within {CONNECT_WITHIN:g} s") from None
        if isinstance(error, psycopg2.Error):
            raise Unavailable(_refusal(error)) from None
        raise
    finally:
        if timer.active():
            timer.cancel()


def _gone() -> Unavailable:
    return away("the connection to the database was lost")


def _refusal(error: BaseException) -> str:
    """What a server that refuses a login says, without the address, which stands there already."""
    text = first_line(error)
    for marker in ("FATAL:  ", "failed: "):
        _, _, text = ("", "", text) if marker not in text else text.partition(marker)
    return text


def _shielded(inner: Deferred[T]) -> Deferred[T]:
    """The same result; cancelling it leaves the connection alone (txpostgres would block, and raise)."""
    outer: Deferred[T] = Deferred()
    _ = inner.addCallbacks(outer.callback, outer.errback)
    return outer
