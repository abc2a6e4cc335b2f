"""A connection to Redis, on a simulated socket: answers that nobody hurries for are read several at a time."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from flux.backends.redis.connection import LATER, LOOK, PATIENCE, Connection, make_protocol
from flux.errors import Unavailable


class Peer:
    """A connection, and what there is of it on the other side."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.transport = StringTransport()
        self.protocol = make_protocol()
        self.protocol.makeConnection(self.transport)
        self.connection = Connection(self.protocol, "here", self.clock)
        self.answers: list[Any] = []

    def command(self, hurried: bool) -> None:
        self.connection.command("GET", "key", hurried=hurried).addBoth(self.answers.append)

    def reads_until_answered(self, due: int) -> bool:
        """Whether it goes on reading, whatever more is sent, until so many answers have come, and no longer."""
        read = []
        for _ in range(due):
            self.command(hurried=False)
            read.append(self.reads)
            self.protocol.dataReceived(b"$1\r\na\r\n")
        self.command(hurried=False)
        return all(read) and not self.reads

    @property
    def reads(self) -> bool:
        return bool(self.transport.producerState == "producing")


@pytest.fixture
def peer() -> Peer:
    return Peer()


def test_answers_that_nobody_hurries_for_are_read_together(peer: Peer) -> None:
    peer.command(hurried=False)
    peer.clock.advance(LATER / 2)
    peer.command(hurried=False)
    assert not peer.reads
    peer.clock.advance(LATER / 2)
    assert peer.reads
    peer.protocol.dataReceived(b"$1\r\na\r\n$1\r\nb\r\n")
    assert peer.answers == [b"a", b"b"]


def test_what_is_due_is_read_before_the_socket_is_left_alone_again(peer: Peer) -> None:
    """Somebody else's socket may bring the next command before the reactor gets to this one."""
    peer.command(hurried=False)
    peer.command(hurried=False)
    peer.clock.advance(LATER)
    assert peer.reads_until_answered(2)


def test_an_answer_that_is_wanted_at_once_is_read_at_once(peer: Peer) -> None:
    peer.command(hurried=False)
    peer.command(hurried=True)
    assert peer.reads_until_answered(2)


def test_a_server_that_does_not_answer_is_given_up_all_the_same(peer: Peer) -> None:
    for _ in range(PATIENCE + 2):
        peer.command(hurried=False)
        peer.clock.advance(LOOK)
    assert not peer.connection.alive
    assert f"{LOOK * PATIENCE:g} s" in peer.connection.reason


@pytest.mark.parametrize("hurried", [True, False])
def test_a_connection_that_is_closed_leaves_nothing_behind(peer: Peer, hurried: bool) -> None:
    peer.command(hurried=hurried)
    peer.connection.close("enough")
    assert peer.clock.getDelayedCalls() == []
    peer.command(hurried=False)
    assert peer.answers[-1].check(Unavailable)
    assert peer.clock.getDelayedCalls() == []
