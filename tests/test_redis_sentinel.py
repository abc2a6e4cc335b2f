"""Sentinel: the primary is found, a failover is followed, nothing is read from or written to a replica."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bus_contract import Recorder, kick
from redis_parts import answers, lease, new_prefix, parts, started, until
from twisted.internet.task import deferLater

from flux.backends.redis.dial import Dialer
from flux.backends.redis.url import parse_url
from flux.bench.engines import Engine, RedisServer, find_redis
from flux.bench.servers import ServerProcess, free_port
from flux.errors import Unavailable
from flux.model.sessions import Route

PASSWORD = "the same for all"


class Sentinel(Engine):
    """A Sentinel that watches a primary."""

    name = "Sentinel"

    def __init__(self, directory: Path, primary: RedisServer, password: str = "") -> None:
        super().__init__(directory)
        self._primary = primary
        self._asks = password

    def _launch(self, cpus: object) -> ServerProcess:
        lines = [
            f"bind 127.0.0.1\nport {self.port}\ndir {self.directory}\ndaemonize no",
            f"sentinel monitor main 127.0.0.1 {self._primary.port} 1",
            f'sentinel auth-pass main "{PASSWORD}"',
            "sentinel down-after-milliseconds main 500",
            "sentinel failover-timeout main 3000",
            *([f'requirepass "{self._asks}"'] if self._asks else []),
        ]
        file = self.directory / "sentinel.conf"
        file.write_text("\n".join(lines) + "\n")
        return ServerProcess([str(find_redis()), str(file), "--sentinel"], self.directory / "output")


class Deployment:
    """A primary, a replica of it, and a Sentinel."""

    def __init__(self, folder: Path) -> None:
        self.primary = self._server(folder / "primary")
        self.replica = self._server(folder / "replica", {"replicaof": f"127.0.0.1 {self.primary.port}"})
        self.sentinel = Sentinel(folder / "sentinel", self.primary)

    @staticmethod
    def _server(folder: Path, settings: dict[str, str] | None = None) -> RedisServer:
        server = RedisServer(folder, {"requirepass": PASSWORD, "masterauth": PASSWORD} | (settings or {}))
        server.password = PASSWORD
        return server

    @property
    def url(self) -> str:
        return f"redis+sentinel://:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{self.sentinel.port}/main"


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path)
    with deployment.primary, deployment.replica, deployment.sentinel:
        yield deployment


async def until_it_knows_the_replica(deployment: Deployment) -> None:
    """A Sentinel that has not seen the replica in sync has nobody to promote."""
    from twisted.internet import reactor

    sentinel = await Dialer(parse_url(deployment.url), None, reactor).open("127.0.0.1", deployment.sentinel.port)
    late = reactor.seconds() + 30
    replicas: list[list[bytes]] = []
    while not any(
        b"master-link-status" in each and each[each.index(b"master-link-status") + 1] == b"ok" for each in replicas
    ):
        assert reactor.seconds() < late, replicas
        await deferLater(reactor, 0.02)
        replicas = await sentinel.command("SENTINEL", "REPLICAS", "main")
    sentinel.close("the test goes on")


@pytest.mark.slow
async def test_a_failover_is_followed(deployment: Deployment) -> None:
    async with started(deployment.url, new_prefix()) as (state, bus):
        await state.renew(lease(), [(1, 1)])
        sink = Recorder()
        await bus.listen("a", 1, sink)
        await until_it_knows_the_replica(deployment)
        deployment.primary.kill()
        with pytest.raises(Unavailable):
            await state.claim(1, Route("a", 1, 2), True)
        sink.seen.clear()
        await answers(state)
        await until(lambda: bus.connected)
        assert sink.seen
        assert set(sink.seen) == {"gap"}
        assert (await state.renew(lease(), [(1, 1)])).lost == ()
        assert await state.routes([1]) == {1: Route("a", 1, 1)}
        await bus.publish("a", 1, kick(1))
        await until(lambda: sink.events == [kick(1)])
        # Who comes back as a replica is not written to.
        deployment.primary.start()
        async with started(deployment.url, new_prefix()) as (other, _):
            await other.renew(lease(), [])
        assert (await state.renew(lease(), [(1, 1)])).lost == ()


@pytest.mark.slow
async def test_the_first_sentinel_that_knows_is_asked(deployment: Deployment, tmp_path: Path) -> None:
    with Sentinel(tmp_path / "other", deployment.primary, password=PASSWORD) as other:
        dead = free_port()
        hosts = f"127.0.0.1:{dead},127.0.0.1:{other.port}"
        url = deployment.url.replace(f"127.0.0.1:{deployment.sentinel.port}", hosts)
        async with started(url, new_prefix()) as (state, _):
            assert (await state.snapshot()).nodes == ()
        state, _ = parts(url.replace("/main", "/nobody"))
        with pytest.raises(Unavailable) as caught:
            await state.start()
        assert f"no connection to Redis at 127.0.0.1:{dead}" in caught.value.detail
        assert f"the Sentinel at 127.0.0.1:{other.port} knows no service 'nobody'" in caught.value.detail
        assert "the same" not in caught.value.detail
