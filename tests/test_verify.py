"""``flux verify`` finds nothing wrong with an honest server, and catches each that is not."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from chat_server import ChatServer
from lying_server import Fields, HonestServer, Link
from server_process import environment, server
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.utils import getProcessOutputAndValue

from flux.bench import conversation, verification
from flux.bench.checker import KINDS, Anomaly, count
from flux.bench.cluster import Cluster, fault_names
from flux.bench.conversation import ConversationFailed
from flux.bench.installation import Fault, Installation, SingleServer
from flux.bench.links import Link as TcpLink
from flux.bench.servers import ServerFailed
from flux.bench.verification import NotRecovered, Period, Plan, Verdict, Verification
from flux.cli import verify

SMALL = Plan(clients=4, groups=1, group_size=3, rate=400.0, seconds=0.25, seed=1)
#: The message of each chat that a liar lies about.
CHOSEN = 5

Listen = Callable[..., tuple[str, int]]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Starts a server in this process, with a certificate and its key through TLS; returns its address."""
    import pytest_twisted
    from twisted.internet import reactor as installed

    reactor: Any = installed
    ports = []

    def listen(server: HonestServer, *identity: Path) -> tuple[str, int]:
        if identity:
            certificate, key = map(str, identity)
            context = DefaultOpenSSLContextFactory(key, certificate)
            ports.append(reactor.listenSSL(0, server, context, interface="127.0.0.1"))
        else:
            ports.append(reactor.listenTCP(0, server, interface="127.0.0.1"))
        return "127.0.0.1", ports[-1].getHost().port

    yield listen
    for port in ports:
        pytest_twisted.blockon(port.stopListening())


async def judge(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch, plan: Plan = SMALL) -> Verdict:
    from twisted.internet import reactor

    monkeypatch.setattr(conversation, "SETTLE_WITHIN", 0.3)
    return await Verification(reactor, plan, Installation([address]), lambda share, what: None).run()


async def test_clients_of_several_servers_are_spread_over_them(listen: Listen) -> None:
    class Counting(HonestServer):
        def on_login(self, link: Link, request: Fields) -> Fields | None:
            logins[link.transport.getHost().port] += 1
            return super().on_login(link, request)

    logins: Counter[int] = Counter()
    server = Counting()
    addresses = [listen(server), listen(server)]
    output, errors, status = await run_command(*(f"{host}:{port}" for host, port in addresses), *SMALL_ARGUMENTS)
    assert (status, "No anomaly." in output) == (0, True), errors
    assert logins == dict.fromkeys((port for _, port in addresses), SMALL.clients // 2)


async def test_an_honest_server(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "PAGE", 7)
    honest = HonestServer()
    verdict = await judge(listen(honest), monkeypatch)
    assert verdict.anomalies == []
    assert verdict.settled
    stored = sum(map(len, honest.chats))
    assert stored > 50
    assert (verdict.sent, verdict.acknowledged, verdict.chats) == (stored, stored, 3)
    group, *pairs = map(len, honest.chats)
    assert verdict.shown == 2 * group + sum(pairs)


async def test_a_server_that_lets_nobody_register_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = await ChatServer(tmp_path, limits__registrations_per_hour_address=5).start()
    try:
        with pytest.raises(ConversationFailed) as failed:
            await judge(("127.0.0.1", limited.nodes[0].port), monkeypatch, replace(SMALL, clients=6))
    finally:
        await limited.stop()
    assert re.fullmatch(
        r"[45] of 6 accounts were registered, then the server refused: too many accounts were registered from this "
        r"address; wait before the next one\. limits\.registrations_per_hour_address of the server bounds them: raise "
        r"it there, or take fewer clients, or wait 60 minutes",
        str(failed.value),
    )


class Forgets(HonestServer):
    """Acknowledges a message without keeping it."""

    def store(self, chat: list[Fields], message: Fields) -> Iterator[Fields]:
        if message["seq"] == CHOSEN:
            chat.append({**message, "text": "nothing to see here", "from": message["from"]})
            return
        yield from super().store(chat, message)


class Withholds(HonestServer):
    """Never shows a message."""

    def show(self, viewer: int, message: Fields) -> Iterator[Fields]:
        if message["seq"] != CHOSEN:
            yield message


class Repeats(HonestServer):
    """Stores a message twice."""

    def store(self, chat: list[Fields], message: Fields) -> Iterator[Fields]:
        yield from super().store(chat, message)
        if message["seq"] == CHOSEN:
            yield from super().store(chat, {**message, "seq": CHOSEN + 1})


class Dawdles(HonestServer):
    """Shows a message after its successor."""

    def __init__(self) -> None:
        super().__init__()
        self.late: dict[tuple[int, int], Fields] = {}

    def show(self, viewer: int, message: Fields) -> Iterator[Fields]:
        if message["seq"] == CHOSEN:
            self.late[viewer, message["chat"]] = message
            return
        yield message
        if late := self.late.pop((viewer, message["chat"]), None):
            yield late


class Invents(HonestServer):
    """Shows what nobody said."""

    def show(self, viewer: int, message: Fields) -> Iterator[Fields]:
        yield {**message, "text": "you have won"} if message["seq"] == CHOSEN else message


class Backdates(HonestServer):
    """Shows another time than it stored."""

    def show(self, viewer: int, message: Fields) -> Iterator[Fields]:
        yield {**message, "at": 5} if message["seq"] == CHOSEN else message


class Skips(HonestServer):
    """Loses a number from the history."""

    def on_history(self, link: Link, request: Fields) -> Fields | None:
        answer = super().on_history(link, request)
        assert answer is not None
        return {**answer, "messages": [line for line in answer["messages"] if line["seq"] != CHOSEN]}


@pytest.mark.parametrize(
    ("liar", "kind"),
    [
        (Forgets, "lost"),
        (Withholds, "lost"),
        (Repeats, "committed twice"),
        (Repeats, "duplicated"),
        (Dawdles, "reordered"),
        (Invents, "phantom"),
        (Backdates, "diverged"),
        (Skips, "skipped"),
    ],
)
async def test_a_lie_is_found(
    liar: type[HonestServer], kind: str, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = await judge(listen(liar()), monkeypatch)
    assert kind in {anomaly.kind for anomaly in verdict.anomalies}
    assert verdict.settled == (liar not in (Forgets, Withholds, Invents))


class Kicks(HonestServer):
    """Ends a session in the middle."""

    def store(self, chat: list[Fields], message: Fields) -> Iterator[Fields]:
        yield from super().store(chat, message)
        if message["seq"] == CHOSEN:
            self.links[0].push({"type": "kicked", "reason": "admin"})


class TakesOver(HonestServer):
    """Ends a session in the middle, for the sake of one that there is not."""

    def store(self, chat: list[Fields], message: Fields) -> Iterator[Fields]:
        yield from super().store(chat, message)
        if message["seq"] == CHOSEN:
            self.links[0].push({"type": "kicked", "reason": "takeover"})


class Refuses(HonestServer):
    """Takes a message no more."""

    def on_send(self, link: Link, request: Fields) -> Fields | None:
        answer = super().on_send(link, request)
        if answer is None or answer["seq"] < CHOSEN:
            return answer
        error = {"type": "error", "code": 1105, "name": "forbidden", "detail": "go away"}
        link.push({**error, "request": "send", "ref": request["ref"]})
        return None


@pytest.mark.parametrize(("liar", "complaint"), [(Kicks, "session ended: admin"), (Refuses, "forbidden: go away")])
async def test_a_conversation_that_cannot_go_on(
    liar: type[HonestServer], complaint: str, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConversationFailed, match=complaint):
        await judge(listen(liar()), monkeypatch)


class Stalls(HonestServer):
    """Stops answering."""

    def on_send(self, link: Link, request: Fields) -> Fields | None:
        answer = super().on_send(link, request)
        return answer if answer is not None and answer["seq"] < CHOSEN else None


class Limits(HonestServer):
    """Answers each second request for history only."""

    def on_history(self, link: Link, request: Fields) -> Fields | None:
        self.asked = not getattr(self, "asked", False)
        if not self.asked:
            return super().on_history(link, request)
        error = {"type": "error", "code": 1107, "name": "rate_limited", "detail": "slow down", "retry_after": 5}
        link.push({**error, "request": "history", "ref": request["ref"]})
        return None


async def test_a_server_that_limits_the_rate_is_asked_again(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = await judge(listen(Limits()), monkeypatch)
    assert (verdict.anomalies, verdict.chats) == ([], 3)


async def test_sends_that_are_never_answered(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConversationFailed, match="no answer"):
        await judge(listen(Stalls()), monkeypatch)


async def test_a_server_that_dies_by_itself_is_noticed(tmp_path: Path) -> None:
    from twisted.internet import reactor

    (tmp_path / "flux.db").write_bytes(b"this is no database" * 100)
    single = SingleServer(reactor, tmp_path, 0)
    try:
        with pytest.raises(ServerFailed, match="status 1"):
            await single.start()
    finally:
        await single.close()


# faults


class Linked(Installation):
    """A server behind a link that goes through ``faults``, by name."""

    def __init__(self, reactor: Any, address: tuple[str, int], *faults: str) -> None:
        self.link = TcpLink(reactor, address[1])
        super().__init__([("127.0.0.1", self.link.port)])
        self._faults = faults

    @property
    def faults(self) -> list[Fault]:
        return [getattr(self, name) for name in self._faults]

    @property
    def cut(self) -> Fault:
        return Fault("cut", self.link.cut, self.link.open, (0.1, 0.1))

    @property
    def cut_for_good(self) -> Fault:
        return Fault("cut for good", self.link.cut, self.link.cut, (0.1, 0.1))

    @property
    def swallow(self) -> Fault:
        return Fault("swallows", self.link.swallow, self.link.open, (0.1, 0.1))


FAULTY = replace(SMALL, rate=100.0, calm=(0.3, 0.3), patient=True)


async def suffer(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch, *faults: str, plan: Plan = FAULTY
) -> Verdict:
    from twisted.internet import reactor

    monkeypatch.setattr(conversation, "SETTLE_WITHIN", 0.5)
    linked = Linked(reactor, address, *faults)
    await linked.link.open()
    try:
        return await Verification(reactor, plan, linked, lambda share, what: None).run()
    finally:
        await linked.link.close()


async def test_what_is_lost_by_a_fault_is_laid_at_its_door(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that shows nothing of what happened while somebody was away; and knows no repetition of a send."""
    verdict = await suffer(listen(HonestServer()), monkeypatch, "swallow", "cut", "swallow")
    assert [period.fault for period in verdict.periods] == ["", "swallows", "cut", "swallows"]
    losses = [sum(period.counts.values()) for period in verdict.periods]
    # Those that were on their way when the link was cut had been acknowledged before.
    assert losses[1] + losses[2] == len(verdict.anomalies) > 0
    assert sum(period.acknowledged for period in verdict.periods) == verdict.acknowledged
    assert all(period.recovery is not None and period.duration >= 0.1 for period in verdict.periods[1:])
    assert not verdict.sound


async def test_who_is_not_served_again_is_noticed(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "GIVE_UP_AFTER", 0.5)
    with pytest.raises(NotRecovered, match="cut for good: 0 of 4 clients"):
        await suffer(listen(HonestServer()), monkeypatch, "cut_for_good")


async def test_a_recovery_that_takes_too_long_is_no_success(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(FAULTY, recover_within=0.0)
    verdict = await suffer(listen(HonestServer()), monkeypatch, "swallow", plan=plan)
    assert (verdict.anomalies, verdict.late, verdict.sound) == ([], ["swallows"], False)


# the command


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    verify.configure(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--kill", "1", "localhost:1"], "leave HOST:PORT"),
        (["--cluster", "localhost:1"], "leave HOST:PORT"),
        (["--kill", "1", "--cluster"], "choose one"),
        (["--kill", "1", "--rounds", "2"], "--rounds goes with --cluster"),
        (["--only", "Redis"], "--only goes with --cluster"),
        (["--lease", "5"], "--lease goes with --cluster"),
        (["--cluster", "--lease", "1"], "from 3 to 600"),
        (["--cluster", "--rounds", "0"], "at least 1"),
        (["--chaos", "60"], "--chaos goes with --cluster"),
        (["--cluster", "--chaos", "0"], "from 1 to 86400"),
        (["--cluster", "--chaos", "60", "--rounds", "2"], "choose one"),
        (["--cluster", "--data", "."], "is not empty"),
        (["--kill", "1", "--data", "/dev/null/x"], "--data: "),
        (["--data", "x"], "--data is for"),
        (["--clients", "3"], "even number"),
        (["--group-size", "1"], "at least 2"),
        (["localhost:x"], "no address"),
        (["--cluster", "--tls"], "leave HOST:PORT"),
        (["--cafile", "x"], "give --tls"),
        (["--tls", "--cafile", "/x/y"], "--cafile /x/y: No such file"),
        (["--tls", "--cafile", "/dev/null"], "/dev/null holds no certificate"),
    ],
)
def test_arguments_that_make_no_sense(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.run(parse(*arguments)) == 2
    assert complaint in capsys.readouterr().err


async def run_command(*arguments: str) -> tuple[str, str, int]:
    from twisted.internet import reactor

    command = "import sys; from flux.cli.main import main; sys.exit(main())"
    output, errors, status = await getProcessOutputAndValue(
        sys.executable, ["-c", command, "verify", *arguments], environment(), reactor=reactor
    )
    return output.decode(), errors.decode(), status


SMALL_ARGUMENTS = ("--clients=4", "--groups=1", "--group-size=3", "--rate=400", "--seconds=0.25", "--seed=1")


async def test_the_command_says_that_all_is_well(listen: Listen) -> None:
    host, port = listen(HonestServer())
    output, errors, status = await run_command(f"{host}:{port}", *SMALL_ARGUMENTS)
    assert (status, "No anomaly." in output, "seed 1" in output) == (0, True, True), errors


async def test_the_command_speaks_tls(listen: Listen, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    host, port = listen(HonestServer(), *authority.issue("127.0.0.1"))
    arguments = (f"{host}:{port}", *SMALL_ARGUMENTS, "--tls")
    output, errors, status = await run_command(*arguments, "--cafile", str(authority.path))
    assert (status, "No anomaly." in output) == (0, True), errors
    output, errors, status = await run_command(*arguments)
    assert (output, status) == ("", 2)
    assert "certificate" in errors


async def test_the_command_fails_on_an_anomaly(listen: Listen) -> None:
    host, port = listen(Dawdles())
    output, errors, status = await run_command(f"{host}:{port}", *SMALL_ARGUMENTS, "--json")
    assert status == 1, errors
    verdict = json.loads(output)
    assert set(verdict["counts"]) == set(KINDS)
    assert verdict["counts"]["reordered"] == len(verdict["anomalies"]) > 0
    assert {anomaly["seq"] for anomaly in verdict["anomalies"]} == {CHOSEN}


async def test_the_command_fails_where_a_session_is_lost(listen: Listen) -> None:
    host, port = listen(TakesOver())
    output, errors, status = await run_command(f"{host}:{port}", *SMALL_ARGUMENTS)
    assert (output, status) == ("", 1)
    lost, situation = errors.splitlines()
    assert lost == "a session ended: takeover: this account has logged in somewhere else"
    assert re.fullmatch(r"seed 1, \d+\.\d s after they began to talk; broken: nothing", situation)
    # Where an admin may have ended it, nothing is proved.
    host, port = listen(Kicks())
    output, errors, status = await run_command(f"{host}:{port}", *SMALL_ARGUMENTS)
    assert (output, status) == ("", 2)
    assert "cannot verify: a session ended: admin" in errors


async def test_the_command_cannot_tell_without_a_server() -> None:
    output, errors, status = await run_command("127.0.0.1:1")
    assert (output, status) == ("", 2)
    assert "cannot reach 127.0.0.1:1" in errors


def test_an_interruption_leaves_no_server_behind(tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = "import sys; from flux.cli.main import main; sys.exit(main())"
    arguments = [sys.executable, "-c", command, "verify", "--kill", "50", "--data", str(data)]
    with server(arguments, tmp_path, environment()) as process:
        while not (data / "flux.db").exists():
            assert process.popen.poll() is None
            time.sleep(0.01)
        process.signal(signal.SIGINT)
        status, errors = process.end()
    assert status == 130
    assert "cannot verify" not in errors
    assert "flux verify: interrupted" in errors
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if str(data).encode() in _command_line(pid)]


def _command_line(process: Path) -> bytes:
    with contextlib.suppress(OSError):
        return (process / "cmdline").read_bytes()
    return b""


def test_the_table_of_faults(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    anomalies = [Anomaly("lost", 7, seq, 3, "never shown", 2) for seq in range(1, 31)]
    periods = [
        Period(acknowledged=77),
        Period("chat1 killed", 1.25, 0.5, 0.75, 1234),
        Period("Redis emptied", 2.5, 0.0, None, 99, count(anomalies)),
        Period("chat2 paused", 3.5, 15.0, 16.5, 98, count([Anomaly("phantom", 7, 31, 0, "sent by nobody", 3)] * 5)),
    ]
    plan = replace(SMALL, recover_within=15.0)
    verify.show(Console(width=120), Verdict(5, periods, 40, 30, 60, 4, False, ["chat2 paused"], anomalies), plan)
    shown = capsys.readouterr().out
    lines = {line.strip().partition("  ")[0]: line.split() for line in shown.splitlines() if line.strip()}
    assert lines["(none yet)"][2:] == ["77", "0", "0", "0", "0"]
    assert lines["chat1 killed"][2:] == ["1.25", "0.50", "1,234", "0", "0", "0", "0", "0.75"]
    assert lines["Redis emptied"][2:] == ["2.50", "0.00", "99", "30", "0", "0", "0", "next", "came"]
    assert lines["chat2 paused"][2:] == ["3.50", "15.00", "98", "0", "0", "0", "5", "16.50"]
    for expected in (
        "lost: 30",
        "chat 7, message 20, to 3",
        "and 10 more",
        "broken",
        "within 15 s after: chat2 paused",
    ):
        assert expected in shown
    assert count(anomalies)["lost"] == 30


@pytest.mark.parametrize(
    ("late", "anomalies", "last"),
    [
        ([], [], "No anomaly."),
        (["chat2 paused"], [], "Not everybody was served again within 15 s after: chat2 paused."),
        ([], [Anomaly("lost", 7, 1, 3, "never shown", 0)], "Delivery is broken."),
        (["chat2 paused"], [Anomaly("lost", 7, 1, 3, "never shown", 0)], "Delivery is broken."),
    ],
)
def test_the_last_line_says_what_the_status_says(
    late: list[str], anomalies: list[Anomaly], last: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    verdict = Verdict(5, [Period()], 40, 30, 60, 4, True, late, anomalies)
    verify.show(Console(width=120), verdict, replace(SMALL, recover_within=15.0))
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == last
    assert ("No anomaly." in shown) == verdict.sound


def test_clients_of_a_cluster_have_15_s_to_come_back() -> None:
    plan = verify._plan(parse("--cluster"))
    assert (plan.clients, plan.recover_within) == (60, 15.0)


def test_an_unknown_fault_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert verify.run(parse("--cluster", "--only", "flood")) == 2
    complaint = " ".join(capsys.readouterr().err.split())
    assert complaint.startswith("flux verify: --only: no fault has 'flood' in its name; there are: chat1 killed, chat2")
    assert complaint.endswith("clients cut off from chat1, chat2 swallows clients")
    assert list(tmp_path.iterdir()) == []
    # In the second round it is another node's turn.
    assert verify.run(parse("--cluster", "--only", "chat2 paused")) == 2
    assert verify._plan(parse("--cluster", "--only", "chat2 paused", "--rounds", "2"))


def test_faults_that_overlap_have_names_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify._plan(parse("--cluster", "--chaos", "60", "--only", "chat2 stopped")).chaos == 60.0
    assert verify.run(parse("--cluster", "--only", "chat2 stopped")) == 2
    assert verify.run(parse("--cluster", "--chaos", "60", "--only", "flood")) == 2
    assert " ".join(capsys.readouterr().err.split()).endswith("Redis killed, Redis emptied, PostgreSQL killed")


def test_a_fault_does_what_its_name_says(tmp_path: Path) -> None:
    from twisted.internet import reactor

    def what(fault: Fault) -> str:
        """In the words of names: who does it, and what it is, as the objects tell."""
        inject: Any = fault.inject
        if isinstance(inject, partial):
            [subject] = inject.args[-1:]
            if inject.func == cluster._drain:
                return f"{subject.name} drained"
            return f"{subject.__self__.name} {'killed' if subject.__name__ == 'kill' else 'emptied'}"
        owner, verb = inject.__self__, inject.__name__
        if owner is cluster.status_server:
            return f"status {verb}ed"
        [node] = [node for node in cluster.nodes if owner in (node.server, *node.links)]
        if owner is node.clients:
            return {"cut": f"clients cut off from {node.name}", "swallow": f"{node.name} swallows clients"}[verb]
        engine = "Redis" if owner is node.redis else "PostgreSQL"
        return {
            "kill": f"{node.name} killed",
            "pause": f"{node.name} paused",
            "cut": f"{node.name} cut off from {engine}",
            "swallow": f"{engine} swallows {node.name}",
        }[verb]

    cluster = Cluster(reactor, tmp_path, rounds=2)
    faults = cluster.faults
    assert [fault.name for fault in faults] == [*fault_names(), *fault_names(number=1)]
    assert [what(fault) for fault in faults] == [fault.name for fault in faults]
