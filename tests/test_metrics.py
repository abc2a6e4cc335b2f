"""What is counted: the names that are documented, and the numbers that a few known things must give."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from admin_parts import FREE, login, running
from certificates import Authority
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from flux.admin.history import History, Sample, quantile, rate
from flux.backends.memory import MemoryState
from flux.errors import NotFound, PasswordInvalid, Unavailable
from flux.interfaces import IState
from flux.lifecycle import spawn
from flux.metrics import BackendMetrics, ChatMetrics, Observed, ProcessMetrics

DOCS = Path(__file__).parent.parent / "docs" / "operations.md"


def exported(registry: CollectorRegistry) -> dict[str, str]:
    """Name -> type of all metrics of ours, named as in a query."""
    found = {}
    for family in registry.collect():
        assert family.documentation
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        if name.startswith("flux_"):
            found[name] = family.type
    return found


async def test_the_documented_metrics_are_those_there_are(tmp_path: Path) -> None:
    rows = re.findall(r"^\| `(flux_\w+)(?:\{[\w, ]+\})?` \| (\w+) \| .+ \|$", DOCS.read_text("utf-8"), re.MULTILINE)
    certificate, key = Authority(tmp_path).issue("localhost")
    given = [f"tls.certificate={certificate}", f"tls.key={key}", f"gate.listen={FREE}"]
    async with running(tmp_path, *given, roles=frozenset({"status", "chat", "gate"})) as assembly:
        assert exported(assembly.registry) == dict(rows)
    assert len(rows) == len(dict(rows))


async def test_messages_sessions_and_logins_are_counted(tmp_path: Path) -> None:
    async with running(tmp_path) as assembly:
        value = assembly.registry.get_sample_value
        ann, bob = await login(assembly, "ann"), await login(assembly, "bob")
        for _ in range(3):
            await ann.send("hello", to=2)
        with pytest.raises(PasswordInvalid):
            await _login_wrong(assembly)
        assert value("flux_sessions") == 2
        assert value("flux_messages_committed_total") == 3
        assert value("flux_messages_delivered_total") == 3
        assert value("flux_commit_messages_sum") == 3
        assert 1 <= (value("flux_commit_seconds_count") or 0) <= 3
        assert value("flux_logins_total", {"by": "password"}) == 2
        assert value("flux_logins_refused_total", {"reason": "password"}) == 1
        assert value("flux_server_up", {"server": "chat1"}) == 1
        assert (value("flux_backend_call_seconds_count", {"backend": "store", "call": "open_session"}) or 0) == 2
        assert assembly.status is not None
        await assembly.status.placement.assign([1, 2])
        assert value("flux_assignments_total", {"server": "chat1"}) == 2
        assert value("flux_tokens_issued_total") == 2
        await ann.close()
        await bob.close()


async def _login_wrong(assembly: Any) -> None:
    from twisted.internet import reactor

    from flux.client import Client

    client = Client(reactor, [assembly.chat.listener.address()])
    try:
        await client.login("ann", password="battery staple")
    finally:
        await client.close()


# --- backends ---


class Faulty(MemoryState):
    """Fails in three ways: away, with an answer, and by a bug; one of them as a Deferred."""

    def token_digest(self, uid: int) -> Deferred[bytes | None]:  # type: ignore[override]
        return succeed(b"") if uid else fail(Unavailable("away"))

    async def revoke(self, uid: int) -> None:
        raise NotFound("an answer")

    async def reserved(self, uids: Any) -> dict[int, str]:
        raise ZeroDivisionError


async def test_calls_are_measured_and_only_failures_count_as_such(clock: Clock) -> None:
    registry = CollectorRegistry()
    state: Any = Observed(Faulty(clock.seconds), IState, "state", BackendMetrics(registry))
    verifyObject(IState, state)
    assert await state.token_digest(1) == b""
    for call, argument, error in (
        ("token_digest", 0, Unavailable),
        ("revoke", 1, NotFound),
        ("reserved", [], ZeroDivisionError),
    ):
        with pytest.raises(error):
            await getattr(state, call)(argument)

    def value(name: str, call: str) -> float | None:
        return registry.get_sample_value(name, {"backend": "state", "call": call})

    assert [value("flux_backend_call_seconds_count", call) for call in ("token_digest", "revoke", "reserved")] == [
        2,
        1,
        1,
    ]
    assert [value("flux_backend_failures_total", call) for call in ("token_digest", "revoke", "reserved")] == [
        1,
        None,
        1,
    ]
    assert value("flux_backend_call_seconds_count", "routes") is None


@pytest.fixture
def clock() -> Clock:
    return Clock()


# --- the process, and its last hour ---


async def test_a_reactor_that_comes_late_is_noticed(clock: Clock) -> None:
    registry = CollectorRegistry()
    process = ProcessMetrics(registry, clock)
    task = spawn(process.watch(), "looking", None)  # type: ignore[arg-type]
    clock.advance(0.5)
    assert process.lag == 0
    clock.advance(2.0)
    assert process.lag == 1.5
    assert registry.get_sample_value("flux_reactor_lag_seconds_sum") == 1.5
    task.cancel()


def test_rates_and_quantiles_between_two_samples(clock: Clock) -> None:
    registry = CollectorRegistry()
    metrics = ChatMetrics(registry)
    sessions = 0
    metrics.gauge("flux_sessions", "how many", lambda: sessions)
    history = History(registry, clock)
    before = history.take()
    clock.advance(5)
    sessions = 7
    metrics.committed.inc(20)
    for _ in range(98):
        metrics.commit_seconds.observe(0.0015)
    for _ in range(2):
        metrics.commit_seconds.observe(60)
    step = before, history.take()
    assert rate(step, "flux_messages_committed_total") == 4
    assert rate(step, "flux_nothing_total") is None
    # 98 of 100 lie between 1 and 2 ms; above 10 s nothing is known but that.
    assert quantile(step, 0.49) == pytest.approx(0.0015)
    assert quantile(step, 0.99) == 10
    clock.advance(5)
    history.take()
    curves = history.curves()
    assert (curves.sessions, curves.messages) == ([7, 7], [4, 0])
    assert curves.commit_median[1] is None
    assert curves.age == [5, 0]
    assert history.curves(1).messages == [0]
    assert history.rates(6)["messages"] == 2


def test_a_process_without_a_chat_server_has_no_curves_of_one(clock: Clock) -> None:
    history = History(CollectorRegistry(), clock)
    history.take()
    clock.advance(5)
    history.take()
    assert history.curves().messages == [None]
    assert history.rates(6) == {}
    assert quantile((Sample(0, {}), Sample(1, {})), 0.5) is None
