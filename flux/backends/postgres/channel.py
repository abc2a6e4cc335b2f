"""The socket of an open connection, and the statement that runs there.

::

    run(statement) ── sent ──> the reactor sees an answer ──> poll: all of it? ──> the Deferred fires
                                                                 │ the server, or the way to it, has gone
                                                                 v
                                                              dead(why)

txpostgres, which opens the connection, runs statements too: it takes the connection out of the reactor for each of
them, puts a cursor there instead, waits for a lock, and hands the result over in the next turn of the reactor.  All
that took a fifth of what the server spent on a message; here a connection has one user and stays where it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_WRITE
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from flux.backends.postgres.failures import first_line, is_dead


@implementer(IReadWriteDescriptor)
class Channel:
    """Runs one statement at a time; who wants to run another waits for the one before.

    The reactor knows the socket by a file number that is ours.  libpq closes its own as soon as it finds the connection
    broken, and what is then still registered would pass for the next socket of that number.

    :param connection: of psycopg2, open and asynchronous.
    :param dead: called with a reason, before the statement fails, when the connection can do no more.
    """

    def __init__(self, connection: Any, reactor: Any, dead: Callable[[str], None]) -> None:
        self._connection = connection
        self._reactor = reactor
        self._dead = dead
        self._answer: Deferred[Any] | None = None
        self._cursor: Any = None
        self._number = os.dup(connection.fileno())
        try:
            reactor.addReader(self)
        except BaseException:
            os.close(self._number)
            raise

    def run(self, statement: str, values: object) -> Deferred[Any]:
        """Send a statement; fires with psycopg2's cursor, which has what came of it.

        Cancelling the Deferred leaves the statement alone; nothing else can be run until it has ended. Fails with what
        psycopg2 raises.
        """
        answer: Deferred[Any] = Deferred()
        if self._answer is not None:
            return fail(psycopg2.ProgrammingError("another statement is under way"))
        try:
            cursor = self._connection.cursor()
            cursor.execute(statement, values)
        except Exception as error:
            self._fail(error, answer)
        else:
            self._answer, self._cursor = answer, cursor
            if self._go_on():
                # Never at once, or a server on the same processor, which may be that fast, would get the messages that
                # came together one by one.
                self._reactor.callLater(0, self._tell, answer)
        return answer

    def close(self) -> None:
        """Close the connection; the statement that runs fails."""
        if self._number < 0:
            return
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        number, self._number = self._number, -1
        os.close(number)
        self._connection.close()
        if answer := self._taken():
            answer.errback(psycopg2.InterfaceError("the connection was closed"))

    def _go_on(self) -> bool:
        """Have libpq do what can be done now; whether it has the whole answer."""
        try:
            state = self._connection.poll()
        except Exception as error:
            self._fail(error, self._taken())
            return False
        if state == POLL_WRITE:
            self._reactor.addWriter(self)
        return bool(state == POLL_OK)

    def _tell(self, answer: Deferred[Any] | None) -> None:
        """There is the whole of this answer, unless that was told already."""
        cursor = self._cursor
        if answer is not None and answer is self._answer:
            # Before it is told, for then the next statement begins.
            self._taken()
            answer.callback(cursor)

    def _taken(self) -> Deferred[Any] | None:
        answer, self._answer, self._cursor = self._answer, None, None
        return answer

    def _fail(self, error: Exception, answer: Deferred[Any] | None) -> None:
        if is_dead(error) or self._connection.closed:
            self._dead(first_line(error))
        if answer is not None:
            answer.errback(error)

    # --- what the reactor asks and tells ---

    def fileno(self) -> int:
        """Of the socket, for the reactor; -1 when it is closed."""
        return self._number

    def logPrefix(self) -> str:  # noqa: N802 - Twisted's name
        """Whose log lines are written meanwhile."""
        return "PostgreSQL"

    def doRead(self) -> None:
        """Something has come, or the server has gone."""
        if self._go_on():
            self._tell(self._answer)

    def doWrite(self) -> None:
        """There is room for the rest of the statement."""
        if self._number >= 0:
            self._reactor.removeWriter(self)
            self.doRead()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has given the socket up, or saw that it was closed here."""
        if self._number >= 0:
            self._fail(psycopg2.OperationalError(reason.getErrorMessage()), self._taken())
