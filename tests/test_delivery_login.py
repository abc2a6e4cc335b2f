"""One live session per account: logins that overtake each other, are cut off, and meet backends that are away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from delivery_backends import InlineStore, opened_store
from delivery_lab import Client, Lab
from delivery_steps import every_order, now

from flux.model.bus import Kick
from flux.model.chats import CursorMove
from flux.model.sessions import Route


@pytest.fixture
def inline_store(tmp_path: Path) -> Iterator[InlineStore]:
    with opened_store(tmp_path) as store:
        yield store


@pytest.fixture
def lab(inline_store: InlineStore) -> Iterator[Lab]:
    lab = Lab(inline_store, "AB")
    yield lab
    lab.stop()


def sessions(lab: Lab, uid: int) -> list[Client]:
    """The account's live sessions."""
    return [client for client in lab.clients if client.uid == uid and client.live]


def kicked(client: Client) -> list[str]:
    return [line["reason"] for line in client.got("kicked")]


# --- takeover ---


@pytest.mark.parametrize("second", "AB")
def test_the_second_login_takes_over(lab: Lab, second: str) -> None:
    ann, bob = lab.accounts(2)
    first = lab.client("A", ann).login()
    lab.settle()
    other = lab.client(second, ann).login()
    lab.settle()
    assert kicked(first) == ["takeover"]
    assert first.connection.closed
    assert sessions(lab, ann) == [other]
    lab.client("B", bob).login()
    lab.settle()
    lab.clients[-1].tell(type="send", to=ann, text="x")
    lab.settle()
    assert len(other.got("message")) == 1
    assert not first.got("message")


def test_a_lost_kick_is_made_good_by_the_heartbeat(lab: Lab) -> None:
    [ann] = lab.accounts(1)
    first = lab.client("A", ann).login()
    lab.settle()
    # Neither the kick nor the sweep tells A.
    lab.bus.copies = lambda event: 0
    lab.backends["A"][0].fault = lambda method: "before" if method == "changes" else ""
    second = lab.client("B", ann).login()
    lab.settle()
    assert len(sessions(lab, ann)) == 2
    lab.advance(4)
    assert sessions(lab, ann) == [second]
    assert kicked(first) == ["takeover"]


def test_a_lost_kick_is_made_good_by_the_sweep_though_the_shared_state_lies(lab: Lab) -> None:
    [ann] = lab.accounts(1)
    first = lab.client("A", ann).login()
    lab.settle()
    lab.bus.copies = lambda event: 0
    for _, state in lab.backends.values():
        state.fault = lambda method: "before" if method in ("renew", "claim") else ""
    second = lab.client("B", ann).login()
    lab.advance(6)
    assert sessions(lab, ann) == [second]
    assert kicked(first) == ["takeover"]


def test_a_node_whose_store_does_not_answer_for_a_while_is_unready_until_it_does(lab: Lab) -> None:
    def states() -> dict[str, str]:
        return {node.name: node.state for node in now(lab.state.snapshot()).nodes}

    broken = lab.backends["B"][0]
    for away, seen in ((3, "up"), (14, "unready")):
        broken.fault = lambda method: "before" if method == "changes" else ""
        lab.advance(away)
        broken.fault = lambda method: ""
        assert states() == {"A": "up", "B": seen}
        # It looks every second by now, and says at once that it is well.
        lab.advance(1)
        assert states() == {"A": "up", "B": "up"}


def test_a_kick_that_overtakes_the_claim_finds_the_session(lab: Lab) -> None:
    [ann] = lab.accounts(1)
    client = lab.client("A", ann).login()
    lab.steps.until("state.claim")
    lab.nodes["A"].deliver(Kick(ann, 2, "takeover"))
    lab.settle()
    assert kicked(client) == ["takeover"]
    assert not client.got("login.ok")
    assert now(lab.state.routes([ann])) == {}


def test_a_renewal_that_a_takeover_overtook_does_not_kick_the_new_session(lab: Lab) -> None:
    """The answer says that the route of a session was lost; when it comes, another one is in its place."""
    [ann] = lab.accounts(1)
    lab.client("A", ann).login()
    lab.settle()
    lab.bus.copies = lambda event: 0
    lab.client("B", ann).login()
    lab.settle()
    lab.clocks["A"].advance(3)
    lab.steps.until("A.state.renew", " = ")
    renewal = lab.steps.hold("A.state.renew", " = ")
    assert f"lost=({ann},)" in renewal.label
    third = lab.client("A", ann).login()
    lab.settle()
    renewal.run()
    lab.advance(6)
    assert sessions(lab, ann) == [third]
    assert kicked(third) == []


def test_two_logins_on_two_nodes_that_know_nothing_of_each_other(lab: Lab) -> None:
    """The shared state forgets everything between the claims, and the older login ends last."""
    [ann] = lab.accounts(1)
    lab.bus.copies = lambda event: 0
    older, newer = lab.client("A", ann).login(), lab.client("B", ann).login()
    lab.steps.happen("A.store.credentials")
    lab.steps.happen("A.store.credentials")
    lab.steps.until("A.store.open_session", " = ")
    slow = lab.steps.hold("A.store.open_session", " = ")
    lab.settle()
    assert newer.live
    now(lab.state.release(ann, Route("B", lab.nodes["B"].boot, 2)))
    # A sweeps before the older session is in its table, so nothing will be told again.
    lab.advance(6)
    now(lab.state.release(ann, Route("B", lab.nodes["B"].boot, 2)))
    slow.run()
    lab.settle()
    lab.advance(4)
    assert sessions(lab, ann) == [newer]
    assert kicked(older) == ["takeover"]


def test_a_login_whose_client_has_gone_elsewhere_supersedes_nobody(lab: Lab) -> None:
    """What takes its session number is long on its way, and comes after the client has logged in on another node."""
    [ann] = lab.accounts(1)
    gone = lab.client("A", ann).login()
    lab.steps.until("A.store.open_session")
    late = lab.steps.hold("A.store.open_session")
    gone.link.lose()
    there = lab.client("B", ann).login()
    lab.settle()
    late.run()
    lab.settle()
    lab.advance(6)
    assert sessions(lab, ann) == [there]
    assert kicked(there) == []
    # And the next login does supersede it.
    again = lab.client("A", ann).login()
    lab.settle()
    lab.advance(6)
    assert sessions(lab, ann) == [again]
    assert kicked(there) == ["takeover"]


def test_a_sweep_ends_a_superseded_login_that_is_still_under_way(lab: Lab) -> None:
    [ann] = lab.accounts(1)
    lab.bus.copies = lambda event: 0
    for _, state in lab.backends.values():
        state.fault = lambda method: "before" if method in ("renew", "claim") else ""
    older = lab.client("A", ann).login()
    lab.steps.until("A.store.overview", " = ")
    slow = lab.steps.hold("A.store.overview", " = ")
    newer = lab.client("B", ann).login()
    lab.advance(6)
    slow.run()
    lab.advance(6)
    assert sessions(lab, ann) == [newer]
    assert kicked(older) == ["takeover"]


def test_a_sweep_does_not_pass_by_a_login_that_has_read_before(lab: Lab) -> None:
    """What moves between a login's read and its answer is news to the session, which is in no chat yet."""
    ann, bob = lab.accounts(2)
    chat = lab.commit(bob, ann).chat
    now(lab.store.advance([CursorMove(ann, 0, chat, 1, 0)]))
    lab.advance(6)
    client = lab.client("A", ann).login()
    lab.steps.until("A.store.overview", " = ")
    slow = lab.steps.hold("A.store.overview", " = ")
    # Nobody sends a hint, as when the shared state is away.
    lab.commit(bob, ann)
    lab.advance(6)
    slow.run()
    lab.advance(6)
    assert client.pushed == {chat: [2]}


def test_a_node_that_stood_still_looks_before_it_serves_on(lab: Lab) -> None:
    """The lease lapsed meanwhile; what the superseded session sends after that is not worked on."""
    ann, bob = lab.accounts(2)
    first = lab.client("A", ann).login()
    lab.settle()
    lab.stopped.add("A")
    lab.bus.copies = lambda event: 0
    second = lab.client("B", ann).login()
    lab.advance(20)
    assert len(sessions(lab, ann)) == 2
    # A process that goes on runs its timers before it reads its sockets.
    lab.clocks["A"].advance(20)
    first.tell(type="send", to=bob, text="from the past")
    lab.stopped.clear()
    lab.settle()
    assert kicked(first) == ["takeover"]
    assert sessions(lab, ann) == [second]
    assert now(lab.store.conversations(bob, 1)) == ()


def test_a_node_that_stood_still_serves_on_though_the_backends_are_away(lab: Lab) -> None:
    ann, bob = lab.accounts(2)
    client = lab.client("A", ann).login()
    lab.settle()
    lab.stopped.add("A")
    lab.advance(20)
    for backend in lab.backends["A"]:
        backend.fault = lambda method: "before" if method in ("renew", "changes") else ""
    lab.clocks["A"].advance(20)
    client.tell(type="send", to=bob, text="x")
    lab.stopped.clear()
    lab.settle()
    assert client.got("send.ok")


# --- at each wait of a login, something happens ---

WAITS = ["store.open_session", "state.claim", "store.overview", "state.routes"]
BY_PASSWORD = ["store.credentials", "state.failures", *WAITS]
BY_TOKEN = ["state.token_digest", *WAITS]


def befriended(lab: Lab) -> tuple[int, int]:
    ann, bob = lab.accounts(2)
    now(lab.store.friend_add(ann, bob, "", "", False))
    now(lab.store.friend_answer(bob, ann, True, ""))
    lab.commit(bob, ann)
    return ann, bob


@pytest.mark.parametrize("answered", [False, True], ids=["asked", "answered"])
@pytest.mark.parametrize("wait", BY_PASSWORD)
@pytest.mark.parametrize("event", ["lost", "reset", "kicked", "closed"])
def test_whatever_ends_a_login_leaves_nothing(lab: Lab, wait: str, answered: bool, event: str) -> None:
    ann, _ = befriended(lab)
    client = lab.client("A", ann).login()
    lab.steps.until(f"A.{wait}", " = ") if answered else lab.steps.until(f"A.{wait}")
    node = lab.nodes["A"]
    if event == "lost":
        client.link.lose()
    elif event == "reset":
        client.link.reset()
    elif event == "closed":
        client.connection.close()
    else:
        node.deliver(Kick(ann, 99, "takeover"))
    in_table = client.session.number > 0
    lab.settle()
    if event == "kicked" and not in_table:
        # There was no session yet for this kick; the claim would have found the other one.
        assert client.live
        client.link.lose()
        lab.settle()
    assert not node.sessions
    assert not node.delivery.chats
    assert not node.logging_in
    assert now(lab.state.routes([ann])) == {}
    again = lab.client("A", ann).login()
    lab.settle()
    assert again.live
    assert len(again.got("message")) == 1


@pytest.mark.parametrize("fault", ["before", "after"])
@pytest.mark.parametrize(
    ("token", "wait"), [(False, wait) for wait in BY_PASSWORD] + [(True, wait) for wait in BY_TOKEN]
)
def test_a_backend_that_is_away_at_any_step_of_a_login(lab: Lab, token: bool, wait: str, fault: str) -> None:
    ann, _ = befriended(lab)
    backend, method = wait.split(".")
    stepped = lab.backends["A"][backend == "state"]
    stepped.fault = lambda called: fault if called == method else ""
    client = lab.client("A", ann).login(token=token)
    lab.settle()
    stepped.fault = lambda called: ""
    node = lab.nodes["A"]
    [line] = [line for line in client.lines if line["type"] in ("login.ok", "error")]
    if line["type"] == "error":
        assert line["name"] == "unavailable"
        assert not node.sessions
        assert not node.delivery.chats
        lab.settle()
        assert now(lab.state.routes([ann])) == {}
        client.login(token=token)
        lab.settle()
    else:
        assert backend == "state"
        assert not (token and wait in ("state.claim", "state.token_digest"))
    assert client.live
    assert len(client.got("message")) == 1
    lab.advance(4)
    assert now(lab.state.routes([ann]))[ann].number == client.session.number


def test_a_connection_that_is_gone_before_the_login_begins_disturbs_nobody(lab: Lab) -> None:
    [ann] = lab.accounts(1)
    first = lab.client("A", ann).login(acks=True)
    lab.settle()
    second = lab.client("B", ann).login()
    lab.steps.until("B.state.failures")
    second.link.lose()
    lab.advance(6)
    assert first.live
    assert kicked(first) == []


def test_a_route_that_could_not_be_released_is_released_later(lab: Lab) -> None:
    [ann] = lab.accounts(1)
    client = lab.client("A", ann).login()
    lab.settle()
    lab.backends["A"][1].fault = lambda method: "before"
    client.link.lose()
    lab.settle()
    assert ann in now(lab.state.routes([ann]))
    lab.backends["A"][1].fault = lambda method: ""
    lab.advance(4)
    assert now(lab.state.routes([ann])) == {}


def test_where_many_leave_at_once_few_routes_are_released_at_the_same_time(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux.chat.node.RELEASED_AT_ONCE", 2)
    accounts = lab.accounts(6)
    clients = [lab.client("A", uid).login() for uid in accounts]
    lab.settle()
    assert len(now(lab.state.routes(accounts))) == 6
    fault = lab.backends["A"][1].fault
    lab.backends["A"][1].fault = lambda method: "before" if method == "release" else ""
    for client in clients[:3]:
        client.link.lose()
    lab.settle()
    lab.backends["A"][1].fault = fault
    for client in clients[3:]:
        client.link.lose()
    most = 0
    while lab.steps.pending:
        most = max(most, sum("state.release" in step.label for step in lab.steps.pending))
        lab.steps.take(lab.steps.pending[0])
    assert most == 2
    assert set(now(lab.state.routes(accounts))) == set(accounts[:3])
    lab.advance(4)
    assert now(lab.state.routes(accounts)) == {}


# --- takeover = no ---


@pytest.fixture
def polite(inline_store: InlineStore) -> Iterator[Lab]:
    lab = Lab(inline_store, "AB", chat__takeover=False)
    yield lab
    lab.stop()


@pytest.mark.parametrize("second", "AB")
def test_without_takeover_who_is_first_stays(polite: Lab, second: str) -> None:
    [ann] = polite.accounts(1)
    first = polite.client("A", ann).login(acks=True)
    polite.settle()
    other = polite.client(second, ann).login()
    polite.settle()
    assert other.got("error")[0]["name"] == "already_logged_in"
    polite.advance(6)
    assert sessions(polite, ann) == [first]
    # Its number is still the newest one: its cursors move.
    assert now(polite.store.overview(ann)).session == first.session.number
    first.link.lose()
    polite.settle()
    other.login()
    polite.settle()
    assert sessions(polite, ann) == [other]


@pytest.mark.parametrize("nodes", ["AA", "AB"])
def test_without_takeover_one_of_two_simultaneous_logins_stays(inline_store: InlineStore, nodes: str) -> None:
    """In every order of everything that two logins wait for."""

    def run(choose: Callable[[int], int]) -> None:
        lab = Lab(inline_store, "AB", chat__takeover=False)
        [ann] = lab.accounts(1)
        clients = [lab.client(node, ann).login(token=True) for node in nodes]
        while ready := lab.steps.ready():
            lab.steps.take(ready[choose(len(ready))])
        lab.advance(6)
        [live] = sessions(lab, ann)
        [refused] = [client for client in clients if client is not live]
        assert [line["name"] for line in refused.got("error")] == ["already_logged_in"]
        assert now(lab.store.overview(ann)).session == live.session.number
        lab.stop()

    assert 20 < sum(1 for _ in every_order(run, 150)) <= 150


def test_without_takeover_a_login_that_fails_after_its_reservation_locks_nobody_out(polite: Lab) -> None:
    [ann] = polite.accounts(1)
    polite.backends["A"][0].fault = lambda method: "before" if method == "open_session" else ""
    client = polite.client("A", ann).login()
    polite.settle()
    assert client.got("error")[0]["name"] == "unavailable"
    other = polite.client("B", ann).login()
    polite.settle()
    assert other.live
