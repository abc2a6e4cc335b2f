"""What is counted of HTTP: requests by path and outcome, logins, codes, e-mail, WebSockets and relays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from chat_server import open_client
from gate_server import PASSWORD, GateServer, Mailbox
from prometheus_client import CollectorRegistry
from test_gate_site import ClockedSite, client_turns, close
from twisted.internet.defer import Deferred
from websocket_client import WebSocketClient

from flux.errors import BadRequest, Forbidden, Unavailable
from flux.metrics import GateMetrics, ObservedMailer


@pytest_twisted.async_yield_fixture
async def gate(tmp_path: Path):
    gate = await GateServer(tmp_path).start()
    yield gate
    await gate.stop()


def requests(registry: CollectorRegistry) -> dict[tuple[str, str], int]:
    """How many requests there were, by path and outcome."""
    [family] = [family for family in registry.collect() if family.name == "flux_http_requests"]
    return {(sample.labels["path"], sample.labels["outcome"]): int(sample.value) for sample in family.samples}


async def test_requests_are_counted_by_path_and_outcome(gate: GateServer) -> None:
    registry = gate.assembly.registry
    await gate.register("ann")
    for password in (PASSWORD, "wrong password"):
        await gate.post("/v1/login", name="ann", password=password)
        # Always a 200; what counts is what it says.
        await gate.post("/user_login", user="ann", passwd=password)
    await gate.ask("POST", "/v1/login", b"{", Content_Type="application/json")
    await gate.ask("GET", "/v1/login")
    await gate.ask("GET", "/get_test")
    await gate.ask("GET", "/")
    await gate.ask("GET", "/ws")
    for path in ("/nothing", "/v1/nothing", "/nothing%2e?a"):
        assert (await gate.ask("GET", path)).status == 404
    await gate.ask("POST", "/v1/login", b"x" * 100_000, Content_Type="application/json")
    assert requests(registry) == {
        ("/v1/accounts", "ok"): 1,
        ("/v1/login", "ok"): 1,
        ("/v1/login", "password_invalid"): 1,
        ("/user_login", "ok"): 1,
        ("/user_login", "password_invalid"): 1,
        ("/v1/login", "bad_json"): 1,
        ("/v1/login", "bad_request"): 1,
        ("/get_test", "ok"): 1,
        ("files", "ok"): 1,
        ("/ws", "bad_request"): 1,
        ("other", "not_found"): 3,
        ("unread", "too_large"): 1,
    }
    value = registry.get_sample_value
    assert value("flux_http_request_seconds_count", {"path": "/v1/login"}) == 4
    assert 0 < (value("flux_http_request_seconds_sum", {"path": "/v1/login"}) or 0) < 60
    assert value("flux_gate_logins_total", {"outcome": "ok"}) == 2
    assert value("flux_gate_logins_total", {"outcome": "password_invalid"}) == 2
    assert (value("flux_http_connections") or 0) >= 1


async def test_codes_and_mails_are_counted_by_what_became_of_them(gate: GateServer) -> None:
    value = gate.assembly.registry.get_sample_value
    await gate.register("ann", "ann@example.org")
    await gate.code("ann@example.org", "reset")
    Mailbox.problem = Unavailable("full")
    assert (await gate.post("/v1/codes", email="bob@example.org", purpose="register")).error == "unavailable"
    assert value("flux_codes_sent_total", {"purpose": "register"}) == 1
    assert value("flux_codes_sent_total", {"purpose": "reset"}) == 1
    assert value("flux_mails_total", {"outcome": "sent"}) == 2
    assert value("flux_mails_total", {"outcome": "failed"}) == 1
    assert value("flux_mail_seconds_count") == 3
    assert value("flux_mails_waiting") == 0


async def test_a_mail_on_its_way_is_one_that_waits() -> None:
    registry = CollectorRegistry()
    outcomes: list[Deferred[None]] = []

    class Slow:
        start = stop = check = None

        async def send(self, to: str, subject: str, text: str) -> None:
            outcomes.append(Deferred())
            await outcomes[-1]

    mailer = ObservedMailer(Slow(), registry)  # type: ignore[arg-type]
    sending = [Deferred.fromCoroutine(mailer.send("a@x", "s", "t")) for _ in range(2)]
    assert registry.get_sample_value("flux_mails_waiting") == 2
    outcomes[0].callback(None)
    outcomes[1].errback(BadRequest("no such address"))
    await sending[0]
    with pytest.raises(BadRequest):
        await sending[1]
    assert registry.get_sample_value("flux_mails_waiting") == 0
    assert registry.get_sample_value("flux_mails_total", {"outcome": "sent"}) == 1
    assert registry.get_sample_value("flux_mails_total", {"outcome": "no_such_address"}) == 1
    assert registry.get_sample_value("flux_mails_total", {"outcome": "failed"}) == 0


async def test_websockets_and_relays(gate: GateServer) -> None:
    value = gate.assembly.registry.get_sample_value
    here = WebSocketClient()
    open_client(gate.port, client=here)
    await here.opened()
    assert value("flux_websockets_total") == 1
    assert requests(gate.assembly.registry)["/ws", "ok"] == 1
    # To a chat server that nobody knows.
    nowhere = WebSocketClient(path="/ws?server=nowhere")
    open_client(gate.port, client=nowhere)
    await nowhere.opened()
    await nowhere.ended()
    assert (value("flux_relays_made_total"), value("flux_relays_failed_total")) == (1, 1)
    await client_turns(lambda: value("flux_relays") == 0)
    assert value("flux_websockets_total") == 2
    await here.reset()


# --- connections -------------------------------------------------------------


class Refusing:
    """Bans that refuse everybody."""

    any = True

    def refusal(self, address: str) -> Forbidden:
        return Forbidden("this address is banned")

    def offence(self, kind: str, address: str) -> None:
        pass


def counted(site: Any) -> tuple[float, float]:
    """Connections that were sent away: too many, banned."""
    return site.metrics.too_many._value.get(), site.metrics.banned._value.get()


async def test_connections_that_are_sent_away() -> None:
    clocked = ClockedSite(limits__connections_per_address=1)
    try:
        first = await clocked.connect()
        second = await clocked.connect()
        assert (await second.error())[0] == 429
        assert counted(clocked.site) == (1, 0)
        clocked.site._bans = Refusing()  # type: ignore[assignment]
        third = await clocked.connect()
        assert await third.error() == (403, "forbidden")
        assert counted(clocked.site) == (1, 1)
        assert requests(clocked.site.metrics._registry) == {}
        first.transport.abortConnection()
        await first.ended()
    finally:
        await close(clocked)


async def test_who_leaves_before_the_answer_is_gone() -> None:
    clocked = ClockedSite()
    try:
        client = await clocked.connect()
        await clocked.heard(client, b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        assert len(clocked.slow.requests) == 1
        client.transport.abortConnection()
        metrics = clocked.site.metrics._registry
        await client_turns(lambda: ("other", "gone") in requests(metrics))
        assert requests(metrics) == {("other", "gone"): 1}
    finally:
        await close(clocked)


def test_several_ports_of_a_process_are_counted_together() -> None:
    registry = CollectorRegistry()
    metrics = GateMetrics(registry)
    for open_here in (3, 4):
        metrics.connections(lambda number=open_here: number)  # type: ignore[misc]
    assert registry.get_sample_value("flux_http_connections") == 7
