"""A chat server on a PostgreSQL that is restored to an earlier state while clients are connected."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_server import ChatServer, Client, PostgresChatServer
from postgres_database import remember

from flux.bench.engines import PostgresServer


@pytest.mark.slow
@pytest.mark.parametrize("acks", [True, False])
async def test_new_messages_under_reused_seqs_are_shown(tmp_path: Path, acks: bool) -> None:
    with PostgresServer(tmp_path / "postgres", {"fsync": "off"}) as postgres:
        server = PostgresChatServer(tmp_path, postgres.dsn)
        await server.start()
        try:
            ann, bob = await server.people("ann", "bob", acks=acks)
            await say(server, ann, bob, "1", "2")
            # What bob has received is known here when this is answered.
            await bob.ok("ping")
            await server.advance(2)
            go_back = remember(postgres)
            await say(server, ann, bob, "3", "4", "5")
            go_back()
            # The server finds out by itself; who sends meanwhile repeats what was not acknowledged.
            await say(server, ann, bob, "new 3", told=False)
            await server.advance(6)
            first = await bob.told("message")
            assert (first["seq"], first["text"]) == (3, "new 3")
            await say(server, ann, bob, "new 4", "new 5", "new 6")
            assert not ann.closed
            assert not bob.closed
        finally:
            await server.stop()


async def say(server: ChatServer, sender: Client, to: Client, *texts: str, told: bool = True) -> None:
    for text in texts:

        async def sent(text: str = text) -> bool:
            return (await sender.ask("send", to=to.id, text=text, cid=text))["type"] == "send.ok"

        await server.eventually(sent)
        if told:
            message = await to.told("message")
            assert message["text"] == text
            to.tell("received", chat=message["chat"], seq=message["seq"])
