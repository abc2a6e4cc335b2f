"""A client and a server between which everything goes wrong, at random, many times over.

The server of these tests keeps the rules of delivery and nothing else: what it commits
stays, an account's messages are pushed past its cursor and in order, the cursor moves by
``received`` and no further than what was pushed.  Links break before and after commits,
answers are lost, refused, delayed.  In the end every message is there once, in order.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from scripted_server import Link, ScriptedServer, Taken, result

SENDS = 40
INCOMING = 60


class FaultyServer(ScriptedServer):
    """One account, two chats it sends to, one chat it receives from."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.committed: dict[int, list[tuple[str, str]]] = {8: [], 9: []}
        self.cursor = 0
        self.pushed = 0

    def answer(self, link: Link, request: dict[str, Any]) -> bool:
        if request["type"] == "login":
            self.pushed = self.cursor
        if request["type"] == "received":
            self.cursor = max(self.cursor, min(request["seq"], self.pushed))
            return True
        return super().answer(link, request)

    def step(self) -> None:
        """Something happens."""
        self.clock.advance(self.rng.choice([0, 0.01, 0.3]))
        link = self.link
        if not link.open:
            return
        for _ in range(self.rng.randrange(6)):
            if self.pushed < INCOMING:
                self.pushed += 1
                link.message(self.pushed, chat=100)
        sends = [request for request in link.requests if request["type"] == "send"]
        if sends:
            self.take_one(link, self.rng.choice(sends))
        if self.rng.random() < 0.05:
            link.cut(clean=self.rng.random() < 0.5)

    def take_one(self, link: Link, request: dict[str, Any]) -> None:
        link.requests.remove(request)
        match self.rng.choice(["ok", "ok", "ok", "unavailable", "unknown", "limited", "cut", "cut after"]):
            case "ok":
                link.receipt(request, self.commit(request), chat=request["to"])
            case "unavailable":
                link.error(request, "unavailable")
            case "unknown":
                self.commit(request)
                link.error(request, "unavailable")
            case "limited":
                link.error(request, "rate_limited", retry_after=200)
            case "cut":
                link.cut()
            case "cut after":
                self.commit(request)
                link.cut()

    def commit(self, request: dict[str, Any]) -> int:
        """The ``seq`` of the message, which is committed unless its cid is there already."""
        chat = self.committed[request["to"]]
        message = (request["cid"], request["text"])
        if message not in chat:
            chat.append(message)
        return chat.index(message) + 1


@pytest.mark.parametrize("seed", range(40))
def test_every_message_once_and_in_order(seed: int) -> None:
    server = FaultyServer(random.Random(seed))
    client = server.client(rng=random.Random(seed))
    result(client.login("ann", password="secret word"))
    taken = Taken(client)
    sent = [client.send(f"m{number}", to=8 + number % 2) for number in range(SENDS)]
    steps = 0
    while not (all(d.called for d in sent) and len(taken.texts()) >= INCOMING and server.cursor == INCOMING):
        server.step()
        steps += 1
        assert steps < 20_000, (len(taken.texts()), server.cursor, client.unsent)
    receipts = [result(d) for d in sent]
    assert [receipt.seq for receipt in receipts] == [number // 2 + 1 for number in range(SENDS)]
    for chat, parity in ((8, 0), (9, 1)):
        assert [text for _, text in server.committed[chat]] == [f"m{n}" for n in range(SENDS) if n % 2 == parity]
    assert taken.texts() == [f"m{seq}" for seq in range(1, INCOMING + 1)]
    assert len(server.links) > 1
    server.end()
