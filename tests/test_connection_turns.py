"""Whose turn it is: neither one connection that sends thousands of lines at once nor many long answers keep the others
waiting."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from chat_server import ChatServer
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.testing import StringTransport

from flux.chat.turns import LONG
from flux.chat.turns import Turns as LongAnswers
from flux.model.messages import Conversation
from flux.net.connection import BUSY, LINES_PER_TURN, Gather
from flux.net.lines import LineProtocol


class Turns:
    """The turns of a reactor."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def callLater(self, when: float, what: Callable[..., object], *args: object) -> None:  # noqa: N802 - Twisted's name
        assert when == 0
        self.calls.append(partial(what, *args))

    def turn(self) -> None:
        """Do what waits for the next one."""
        calls, self.calls = self.calls, []
        for call in calls:
            call()


class Lines(LineProtocol):
    """Keeps what comes, and says so."""

    def __init__(self, reactor: Turns) -> None:
        super().__init__("c1", Gather(), 100, reactor)
        self.lines: list[bytes] = []
        self.makeConnection(StringTransport())

    def line_received(self, line: bytes) -> None:
        assert not self.closed
        self.lines.append(line)
        self.write(line + b"\n")

    def line_too_long(self) -> None:
        self.lines.append(b"too long")
        self.close()


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def sent(lines: list[bytes]) -> bytes:
    return b"".join([line + b"\n" for line in lines])


def test_of_many_lines_a_few_are_worked_on_in_each_turn() -> None:
    reactor = Turns()
    one, other = Lines(reactor), Lines(reactor)
    everything = numbered(3 * LINES_PER_TURN + 1)
    one.dataReceived(sent(everything))
    assert len(one.lines) == LINES_PER_TURN
    assert one.transport.value() == sent(one.lines)
    assert one.transport.producerState == "paused"
    # The others have their turn.
    other.dataReceived(b"x\n")
    assert other.lines == [b"x"]
    # What comes meanwhile waits behind.
    one.dataReceived(b"last\n")
    for turn in (2, 3):
        reactor.turn()
        assert len(one.lines) == turn * LINES_PER_TURN
    reactor.turn()
    assert one.lines == [*everything, b"last"]
    assert one.transport.producerState == "producing"
    assert not reactor.calls


@pytest.mark.parametrize("count", [1, LINES_PER_TURN])
def test_what_can_be_done_in_one_turn_takes_one(count: int) -> None:
    reactor = Turns()
    one = Lines(reactor)
    one.dataReceived(sent(numbered(count)))
    assert len(one.lines) == count
    assert not reactor.calls
    assert one.transport.producerState == "producing"


def test_the_end_of_a_turn_ends_no_other_wait() -> None:
    reactor = Turns()
    one = Lines(reactor)
    one.dataReceived(sent(numbered(3 * LINES_PER_TURN)))
    one.hold(BUSY)
    reactor.turn()
    assert len(one.lines) == LINES_PER_TURN
    one.release(BUSY)
    assert len(one.lines) == 2 * LINES_PER_TURN
    one.abort()
    reactor.turn()
    assert len(one.lines) == 2 * LINES_PER_TURN


def test_a_line_that_is_too_long_has_its_turn_behind_all_others() -> None:
    reactor = Turns()
    one = Lines(reactor)
    one.dataReceived(sent(numbered(LINES_PER_TURN)) + b"x" * 200)
    assert len(one.lines) == LINES_PER_TURN
    reactor.turn()
    assert one.lines[-1] == b"too long"


async def test_of_answers_that_are_ready_each_turn_writes_a_long_one() -> None:
    reactor = Turns()
    answers = LongAnswers(reactor)
    written: list[str] = []

    async def answer(name: str, size: int) -> None:
        await answers.free()
        written.append(name)
        if size >= LONG:
            answers.use()

    ready = [("a", 1), ("b", LONG), ("c", 1), ("d", LONG), ("e", LONG), ("f", 1)]
    done = [Deferred.fromCoroutine(answer(*each)) for each in ready]
    assert written == ["a", "b"]
    # The node stops, and one does not wait any more.
    done.append(Deferred.fromCoroutine(answer("g", 1)))
    done.pop().addErrback(lambda failure: failure.trap(CancelledError)).cancel()
    reactor.turn()
    assert written == ["a", "b", "c", "d"]
    reactor.turn()
    reactor.turn()
    assert written == ["a", "b", "c", "d", "e", "f"]
    await gatherResults(done)
    await answer("h", 1)
    assert not reactor.calls


async def test_lists_that_a_store_brings_at_once_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux.chat.session.LONG", 1)
    server = await ChatServer(tmp_path).start()
    try:
        people = await server.people("ann", "bob", "cyd")
        asked: list[Deferred[tuple[Conversation, ...]]] = []
        used: list[LongAnswers] = []
        plain = LongAnswers.use

        def conversations(uid: int, limit: int) -> Deferred[tuple[Conversation, ...]]:
            asked.append(Deferred())
            return asked[-1]

        def use(self: LongAnswers) -> None:
            used.append(self)
            plain(self)

        monkeypatch.setattr(server.store, "conversations", conversations)
        for each in people:
            each.tell("chats", ref="x")
        await server.until(lambda: len(asked) == 3)
        monkeypatch.setattr(LongAnswers, "use", use)
        for found in asked:
            found.callback(())
        assert len(used) == 1
        for each in people:
            assert (await each.reply("x"))["chats"] == []
        assert len(used) == 3
    finally:
        await server.stop()
