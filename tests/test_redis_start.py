"""Starting on Redis: what is wrong is one sentence that names the setting, and never the password."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from bus_contract import Recorder, kick
from redis_parts import Proxy, admin, lease, new_prefix, outcome, parts, started, until, url_of
from server_process import environment
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import LogLevel, globalLogPublisher

from flux.backends.redis import RedisBus, RedisState
from flux.backends.redis.url import Address, parse_url
from flux.bench.engines import RedisServer
from flux.bench.servers import free_port, listens
from flux.errors import Unavailable
from flux.model.bus import FriendsChanged, Kick

# --- the URL -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost", Address((("localhost", 6379),))),
        ("redis://10.0.0.1:6380/12", Address((("10.0.0.1", 6380),), database=12)),
        ("redis://[::1]:1/0", Address((("::1", 1),))),
        ("rediss://:p%40ss@h/", Address((("h", 6379),), password="p@ss", tls=True)),
        ("redis://ann:a:b@h", Address((("h", 6379),), "ann", "a:b")),
        ("redis+sentinel://a,b:1/main", Address((("a", 26379), ("b", 1)), service="main")),
        ("rediss+sentinel://:x@a/main/3", Address((("a", 26379),), password="x", database=3, tls=True, service="main")),
    ],
)
def test_urls(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost:6379", "http://h", "redis://", "redis://h:0", "redis://h:65536", "redis://a,b", "redis://h/x",
        "redis://ann@h", "redis://h h", "redis://:hunter2@h/0/1", "redis://:hunter2@h?db=1", "redis://:hunter#2@h",
        "redis://:hunt@er2@h", "redis+sentinel://h", "redis+sentinel://h/", "redis+sentinel://h/main/x", "redis://h/99999",
    ],
)  # fmt: skip
def test_wrong_urls_are_not_quoted(url: str) -> None:
    with pytest.raises(Unavailable, match=r"^unavailable: state\.url: .*; expected redis://") as caught:
        parse_url(url)
    assert "hunt" not in str(caught.value)


def test_the_password_is_not_shown() -> None:
    assert "hunter2" not in repr(parse_url("redis://ann:hunter2@h"))


# --- what the server says ----------------------------------------------------


async def start(state: RedisState, bus: RedisBus) -> None:
    await state.start()
    await bus.start()


async def refused(url: str, prefix: str = "flux:", ca: Path | None = None) -> str:
    """The sentence with which a start fails."""
    state, bus = parts(url, prefix, ca)
    try:
        with pytest.raises(Unavailable) as caught:
            await start(state, bus)
    finally:
        await bus.stop()
        await state.stop()
    assert isinstance(outcome(state.snapshot()), Unavailable)
    assert caught.value.detail.startswith("state."), caught.value.detail
    return caught.value.detail


async def test_nobody_there() -> None:
    port = free_port()
    assert await refused(f"redis://127.0.0.1:{port}") == (
        f"state.url: no connection to Redis at 127.0.0.1:{port}: Connection was refused by other side: 111: "
        "Connection refused"
    )
    assert "no.such.host.invalid" in await refused("redis://no.such.host.invalid")


async def test_somebody_who_says_nothing(redis_server, monkeypatch) -> None:
    from flux.backends.redis import dial

    monkeypatch.setattr(dial, "STEP_WITHIN", 0.2)
    proxy = Proxy(redis_server.port)
    proxy.swallow()
    assert (await refused(url_of(redis_server, port=proxy.port))).endswith(": no answer within 0.2 s")
    await proxy.stop()


async def test_somebody_who_speaks_something_else() -> None:
    from twisted.internet import reactor

    class WebServer(Protocol):
        def dataReceived(self, data: bytes) -> None:
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    port = reactor.listenTCP(0, Factory.forProtocol(WebServer), interface="127.0.0.1")
    number = port.getHost().port
    problem = await refused(f"redis://127.0.0.1:{number}")
    # It might be what TLS says to who does not speak it.
    assert problem == (
        f"state.url: Redis at 127.0.0.1:{number}: what it says is not the protocol of Redis; "
        "perhaps it wants TLS (rediss, not redis)"
    )
    await port.stopListening()


async def test_passwords(redis_server) -> None:
    assert "it refuses the user or the password" in await refused(url_of(redis_server, password="hunter2"))
    assert "it refuses the user or the password" in await refused(url_of(redis_server, user="nobody"))
    assert "it wants a password" in await refused(f"redis://127.0.0.1:{redis_server.port}")


async def test_a_password_where_none_is_wanted(tmp_path: Path) -> None:
    with RedisServer(tmp_path, {"requirepass": ""}) as server:
        problem = await refused(url_of(server, password="hunter2"))
        assert "it has no password: leave out the one in state.url (ERR AUTH" in problem
        async with started(f"redis://127.0.0.1:{server.port}") as (state, _):
            assert (await state.snapshot()).nodes == ()


async def test_no_such_database(redis_server) -> None:
    assert "DB index is out of range" in await refused(url_of(redis_server, database=99))


async def test_databases_are_apart(redis_server) -> None:
    prefix = new_prefix()
    async with (
        started(url_of(redis_server, database=3), prefix) as (three, _),
        started(url_of(redis_server, database=4), prefix) as (four, _),
    ):
        await three.renew(lease(), [])
        assert (await four.snapshot()).nodes == ()
        assert len((await three.snapshot()).nodes) == 1


@pytest.mark.parametrize(
    ("rights", "sentence"),
    [
        ("~other:* &* +@all", "its user has no right to this"),
        ("~flux:* &* +@all -hset", "it needs ~flux:* and +@all -@admin -@dangerous"),
        ("~flux:* &* +@all -eval -evalsha", "it needs ~flux:* and +@all -@admin -@dangerous"),
        ("~flux:* &other:* +@all", "it needs the channels flux:bus:0:*"),
        ("~flux:* &flux:* +@all -select", "has no right to this"),
    ],
)
async def test_a_user_without_rights(redis_server, rights: str, sentence: str) -> None:
    async with admin(redis_server) as root:
        await root.command("ACL", "SETUSER", "limited", "reset", "on", ">secret", *rights.split())
        database = 1 if "-select" in rights else 0
        problem = await refused(url_of(redis_server, user="limited", password="secret", database=database))
        assert sentence in problem
        assert "secret" not in problem
        await root.command("ACL", "DELUSER", "limited")


@pytest.mark.parametrize("may_look", [True, False])
async def test_a_user_with_no_more_rights_than_needed(redis_server, may_look: bool) -> None:
    rights = "~flux:* &flux:* +@all -@admin -@dangerous" + " +info" * may_look
    assert not may_look or rights in (Path(__file__).parent.parent / "docs" / "operations.md").read_text("utf-8")
    events = []
    globalLogPublisher.addObserver(events.append)
    async with admin(redis_server) as root:
        await root.command("ACL", "SETUSER", "limited", "reset", "on", ">secret", *rights.split())
        async with started(url_of(redis_server, user="limited", password="secret")) as (state, bus):
            await state.renew(lease(), [(1, 1)])
            sink = Recorder()
            await bus.listen("a", 1, sink)
            await bus.publish("a", 1, kick(1))
            await bus.multicast([FriendsChanged(1, 2, True, (1,))])
            await until(lambda: len(sink.events) == 2)
            await state.retire("a", 1)
        await root.command("ACL", "DELUSER", "limited")
    globalLogPublisher.removeObserver(events.append)
    warnings = [event["warning"] for event in events if event["log_level"] is LogLevel.warn]
    assert ["make sure it is noeviction" in warning for warning in warnings] == [True] * (not may_look)


async def test_a_replica(redis_server, tmp_path: Path) -> None:
    replica = RedisServer(
        tmp_path, {"replicaof": f"127.0.0.1 {redis_server.port}", "masterauth": redis_server.password}
    )
    with replica:
        assert f"is a replica, which only reads; name its primary (127.0.0.1:{redis_server.port})" in await refused(
            replica.url
        )


class NotLoaded(RedisServer):
    """Is used as soon as it listens."""

    def _serves(self) -> bool:
        return listens(self.port)


async def test_a_server_that_is_still_loading(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    with server:
        async with admin(server) as root:
            await root.command("EVAL", "for i = 1, 2000 do redis.call('SET', i, string.rep('x', 1000)) end", 0)
            await root.command("SAVE")
        server.kill()
        slow = {"key-load-delay": "10000", "loading-process-events-interval-bytes": "1024"}
        loading = NotLoaded(tmp_path, slow)
        loading.password = server.password
        with loading:
            assert "is still loading its data" in await refused(loading.url)


async def test_what_it_does_when_it_is_full_is_looked_at(tmp_path: Path) -> None:
    events = []
    with RedisServer(tmp_path, {"maxmemory-policy": "allkeys-lru"}) as server:
        globalLogPublisher.addObserver(events.append)
        async with started(server.url):
            """It starts all the same."""
        globalLogPublisher.removeObserver(events.append)
    [warning] = [event["warning"] for event in events if event["log_level"] is LogLevel.warn]
    assert warning == (
        "Redis has maxmemory-policy allkeys-lru: when it is full it drops leases and routes; set it to noeviction"
    )


async def test_publishing_before_a_start_fails() -> None:
    _, bus = parts("redis://127.0.0.1:1")
    assert isinstance(outcome(bus.publish("a", 1, Kick(1, 1, "admin"))), Unavailable)
    assert not bus.connected


# --- the commands ------------------------------------------------------------


def run(program: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; ``program`` is the Python that starts it."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; {program}", *arguments],
        env=environment(), cwd=cwd, capture_output=True, text=True, check=False,
    )  # fmt: skip


def check(url: str, folder: Path) -> tuple[int, list[tuple[str, str]], str]:
    """``flux check``: its exit status, its steps that are about Redis, and all that it says."""
    ports = [f"{section}.listen=tcp:0:interface=127.0.0.1" for section in ("chat", "status", "gate")]
    overrides = ["state.kind=redis", f"state.url={url}", f"store.path={folder}/flux.db", *ports]
    program = "from flux.cli.main import main; sys.exit(main())"
    done = run(program, "check", *(f"--set={override}" for override in overrides), cwd=folder)
    steps = re.findall(r"^(ok|FAILED) +[0-9]+ ms  state redis: (.+)$", done.stdout, re.MULTILINE)
    return done.returncode, steps, done.stdout


def test_flux_check_shows_its_steps(redis_server, tmp_path: Path) -> None:
    names = [
        "connects",
        "authenticates",
        "is a primary that drops nothing",
        "runs scripts",
        "keeps what is written",
        "publishes and hears",
        "disconnects",
    ]
    status, steps, output = check(redis_server.url, tmp_path)
    assert (status, steps) == (0, [("ok", name) for name in names]), output
    assert "a script takes" in output
    status, steps, output = check(url_of(redis_server, password="hunter2"), tmp_path)
    assert status == 1
    assert [outcome for outcome, _ in steps] == ["ok", *["FAILED"] * 5, "ok"]
    assert "it refuses the user or the password" in output
    assert "hunter2" not in output


def test_flux_check_of_a_full_redis_fails(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis", {"maxmemory": "1"}) as server:
        status, steps, output = check(server.url, tmp_path)
    assert status == 1
    assert [name for outcome, name in steps if outcome == "FAILED"] == ["keeps what is written", "publishes and hears"]
    assert "it is full: more memory is needed (maxmemory)" in output


def test_a_start_that_fails_is_one_line(redis_server, tmp_path: Path) -> None:
    url = url_of(redis_server, password="hunter2")
    done = run(
        "from twisted.scripts.twistd import run; run()",
        *("-n", "--pidfile=", "flux-status", "--set=state.kind=redis", f"--set=state.url={url}"),
        "--set=status.listen=tcp:0:interface=127.0.0.1",
        "--set=admin.listen=",
        cwd=tmp_path,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("cannot start flux-status: the shared state: state.url: Redis at 127.0.0.1:")
    assert "it refuses the user or the password" in line
    assert "hunter2" not in done.stdout + done.stderr
