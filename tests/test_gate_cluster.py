"""Gate, status services and chat server as processes of their own, on one Redis and one PostgreSQL."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis_parts import new_prefix

from flux.bench.engines import PostgresServer, RedisServer
from flux.bench.installation import FluxServer
from flux.bench.servers import free_port, twistd
from flux.client import Client, GateClient, Message
from flux.lifecycle import together

KEY = "a key of sixteen characters"
PASSWORD = "correct horse"


@pytest.mark.slow
async def test_from_the_gate_to_a_chat_with_status_services_that_die(
    redis_server: RedisServer, quick_postgres: PostgresServer, tmp_path: Path
) -> None:
    from twisted.internet import reactor

    one, two, chat, gate = ports = [free_port() for _ in range(4)]
    settings = {
        "state.kind": "redis",
        "state.url": redis_server.url,
        "state.prefix": new_prefix(),
        "store.kind": "postgres",
        "store.dsn": quick_postgres.create_database("gate"),
        "store.require_fsync": "no",
        "status.cluster_key": KEY,
        "chat.listen": f"tcp:{chat}:interface=127.0.0.1",
        "gate.listen": f"tcp:{gate}:interface=127.0.0.1",
        "gate.status": f"127.0.0.1:{one}, 127.0.0.1:{two}",
    }

    def server(command: str, port: int, **changes: str) -> FluxServer:
        given = settings | {name.replace("__", "."): value for name, value in changes.items()}
        return FluxServer(reactor, twistd(command, given), [port], tmp_path / f"{command}-{port}")

    status = [server("flux-status", port, status__listen=f"tcp:{port}:interface=127.0.0.1") for port in (one, two)]
    others = [server("flux-chat", chat), server("flux-gate", gate)]
    async with AsyncExitStack() as stack:
        for each in (*status, *others):
            stack.push_async_callback(each.kill)
        await together(each.start() for each in (*status, *others))
        http = GateClient(reactor, f"127.0.0.1:{ports[3]}")
        for name in ("ann", "bob"):
            await http.register(name, PASSWORD)
        ann, bob = Client(reactor), Client(reactor)
        stack.push_async_callback(ann.close)
        stack.push_async_callback(bob.close)
        assert (await ann.login_through(http.locator("ann", password=PASSWORD))).server == "chat1"
        # One status service is killed, then it is the other's turn; whoever logs in does not notice.
        await status[0].kill()
        bob_is = await bob.login_through(http.locator("bob", password=PASSWORD))
        await status[0].start()
        await status[1].kill()
        assert (await http.login("ann", password=PASSWORD)).server == "chat1"
        await ann.send("hello", to=bob_is.id)
        async for event in bob.events:
            if isinstance(event, Message):
                assert event.text == "hello"
                break
