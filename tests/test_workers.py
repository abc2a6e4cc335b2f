"""A chat server of several processes: one port for all, one for each, and what becomes of them."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from processes import ALONE, PASSWORD, Person, Place, shared_by_all
from server_process import ServerProcess

from flux.bench.engines import PostgresServer, RedisServer
from flux.config import ConfigError, load

pytestmark = pytest.mark.slow


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def place(
    tmp_path: Path, stack: ExitStack, redis_server: RedisServer, postgres_server: PostgresServer, request: Any
) -> Place:
    database = f"workers_{request.node.name[:40]}"
    return Place(tmp_path, stack, chat__workers="2", **shared_by_all(redis_server, postgres_server, database))


def workers(process: ServerProcess) -> dict[str, int]:
    """The process of each worker, as the log has told last."""
    told = [line.split()[-5:] for line in process.lines if " is process " in line]
    return {words[1]: int(words[4]) for words in told}


def own_ports(process: ServerProcess) -> dict[str, int]:
    """The port of each worker, as the banner tells."""
    name = process.wait_for("chat1-1  ").split()
    other = process.wait_for("chat1-2  ").split()
    return {name: int(address.rpartition(":")[2]) for name, address in (name, other)}


def wait_for_end(*pids: int) -> None:
    """Return when these processes are gone."""
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            assert select.select([handle], [], [], 60)[0]
        finally:
            os.close(handle)


def test_people_on_different_workers_talk(place: Place, stack: ExitStack) -> None:
    process = place.start("flux")
    ports = own_ports(process)
    status, output, _ = place.admin("servers", "--json")
    assert status == 0
    assert {node["name"]: node["port"] for node in json.loads(output)} == ports
    assert place.chat not in ports.values()

    ann = place.log_in("ann")
    bob_id = place.person().ask("register", name="bob", password=PASSWORD)["id"]
    # Assignments lead to the workers' own ports, and their tokens let one in there.
    asked = stack.enter_context(closing(Person(place.status)))
    given = asked.ask("get_chat_server", uids=[bob_id, *range(1000, 1010)])["assignments"]
    assert {each["server"]: each["port"] for each in given} == ports
    bob = stack.enter_context(closing(Person(given[0]["port"])))
    assert bob.ask("login", id=bob_id, token=given[0]["token"])["server"] == given[0]["server"]
    # From one worker to another, whichever hers is.
    other = next(name for name in ports if name != ann.server)
    bob = stack.enter_context(closing(Person(ports[other])))
    assert bob.ask("login", id=bob_id, password=PASSWORD)["server"] == other
    assert ann.ask("send", to=bob_id, text="hello")["type"] == "send.ok"
    assert bob.next()["text"] == "hello"
    # All of them take connections on the shared port.
    there = set()
    while there != set(ports):
        person = place.person()
        there.add(person.ask("login", id=bob_id, password=PASSWORD)["server"])
        person.close()
    process.signal(signal.SIGTERM)
    assert process.end() == (0, "")
    wait_for_end(*workers(process).values())


def test_a_worker_that_is_killed_is_started_again_where_it_was(place: Place, stack: ExitStack) -> None:
    process = place.start("flux-chat")
    ports, pids = own_ports(process), workers(process)
    here = stack.enter_context(closing(Person(ports["chat1-2"])))
    here.ask("register", name="ann", password=PASSWORD)
    assert here.ask("login", name="ann", password=PASSWORD)["server"] == "chat1-2"
    os.kill(pids["chat1-1"], signal.SIGKILL)
    # Who comes now waits in the queue of its port.
    waiting = stack.enter_context(closing(Person(ports["chat1-1"])))
    assert waiting.ask("ping")["type"] == "ping.ok"
    process.wait_for("worker chat1-1 was killed by SIGKILL")
    process.wait_for("chat1-1 process.FluxProcess flux-chat started")
    assert workers(process)["chat1-1"] != pids["chat1-1"]
    assert workers(process)["chat1-2"] == pids["chat1-2"]
    # The other one has not noticed.
    assert here.ask("ping")["type"] == "ping.ok"
    # One that is told to end is started again too.
    os.kill(pids["chat1-2"], signal.SIGTERM)
    process.wait_for("worker chat1-2 ended with status 0; it is started again")
    process.wait_for("chat1-2 process.FluxProcess flux-chat started")


def test_a_drained_worker_stays_away_and_the_last_one_ends_the_process(place: Place) -> None:
    place.settings["chat.advertise"] = "127.0.0.1:9000"
    place.start("flux-status")
    process = place.start("flux-chat")
    ann = place.log_in("ann")
    server = ann.ask("profile.get") and ann.server
    _, output, _ = place.admin("servers", "--json")
    ports = {node["name"]: node["port"] for node in json.loads(output)}
    assert ports == {"chat1-1": 9001, "chat1-2": 9002}
    other = "chat1-1" if server == "chat1-2" else "chat1-2"
    assert place.admin("drain", server) == (0, f"{server} is draining\n", "")
    # Her client is told of the other worker, which has a port of its own besides the advertised one.
    moved = ann.next()
    assert (moved["type"], moved["port"]) == ("moved", ports[other])
    ann.close()
    process.wait_for(f"worker {server} is drained, and not started again")
    # From now on everybody gets the other one, and nobody this one while it was draining.
    for number in range(5):
        person = place.log_in(f"user {number}")
        assert person.server == other
        assert person.ask("logout")["type"] == "logout.ok"
    status, output, errors = place.admin("drain", "chat1-*", "--wait")
    assert (status, output, errors) == (0, "chat1-1 is down\nchat1-2 is down\n", ALONE)
    process.wait_for("all workers are drained: this process ends")
    assert process.end() == (0, "")


def test_the_log_is_one_and_signals_reach_everybody(place: Place, tmp_path: Path) -> None:
    ini = tmp_path / "flux.ini"
    ini.write_text("[limits]\ncatchups = 5\n")
    place.settings["log.format"] = "json"
    process = place.start("flux-chat", "--config", str(ini), logfile="flux.log")
    log = tmp_path / "flux.log"

    def told(message: str) -> set[str]:
        """Who has logged it; every line is an object of its own."""
        events = [json.loads(line) for line in log.read_text().splitlines()]
        return {event.get("worker", "") for event in events if event["message"].startswith(message)}

    assert told("flux-chat started in") == {"", "chat1-1", "chat1-2"}
    ini.write_text("[limits]\ncatchups = 6\n")
    process.signal(signal.SIGHUP)
    while told("SIGHUP: changed limits.catchups") != {"", "chat1-1", "chat1-2"}:
        pass
    pids = [
        int(event["pid"])
        for event in map(json.loads, log.read_text().splitlines())
        if "pid" in event and "name" in event
    ]
    # Those who rotate logs may signal a whole service: the supervisor has the log, and the workers stay.
    log.rename(tmp_path / "moved")
    for pid in (*pids, process.popen.pid):
        os.kill(pid, signal.SIGUSR1)
    while not log.exists():
        assert process.popen.poll() is None
    # Ctrl-C in the terminal is seen by all of them, and only the supervisor acts on it.
    for pid in (*pids, process.popen.pid):
        os.kill(pid, signal.SIGINT)
    assert process.end() == (0, "")
    assert told("SIGTERM: stopping") == {"chat1-1", "chat1-2"}
    assert told("flux-chat stopped") == {"", "chat1-1", "chat1-2"}


def test_workers_do_not_outlive_their_supervisor(place: Place) -> None:
    process = place.start("flux-chat")
    pids = workers(process).values()
    process.signal(signal.SIGKILL)
    wait_for_end(*pids)
    again = place.start("flux-chat")
    ann = place.log_in("ann")
    # Nor when it is told twice to end.
    pids = workers(again).values()
    place.settings["chat.drain"] = "60"
    again.signal(signal.SIGTERM)
    again.wait_for("SIGTERM: stopping")
    again.signal(signal.SIGTERM)
    again.end()
    wait_for_end(*pids)
    ann.close()


def test_a_start_that_fails_names_worker_and_setting_and_leaves_nothing(place: Place) -> None:
    url = place.settings["state.url"]
    place.settings["state.url"] = url.replace(":", ":x", 2).replace(":x", ":", 1)
    with pytest.raises(AssertionError) as failed:
        place.start("flux-chat")
    said = str(failed.value)
    assert "\ncannot start flux-chat: worker chat1-" in said
    assert "state.url" in said
    assert "Traceback" not in said


def test_what_workers_cannot_share_is_refused_in_one_sentence() -> None:
    with pytest.raises(ConfigError) as refused:
        load(None, ["chat.workers=4", "chat.listen=unix:/run/chat", f"chat.name={'x' * 63}"])
    shared, listen, name = refused.value.mistakes
    assert str(shared) == (
        "chat.workers: 4 processes need a store and a state that they can share; expected store.kind = postgres "
        "(it is sqlite) and state.kind = redis (it is memory), or 1 worker (--set chat.workers)"
    )
    assert (listen.subject, name.subject) == ("chat.listen", "chat.name")
    own = ["store.kind=my.Store", "state.kind=my.State"]
    assert load(None, ["chat.workers=4", "chat.listen=haproxy:tcp:8090", *own]).chat.workers == 4
    with pytest.raises(ConfigError, match=r"chat\.websocket: workers have no such port"):
        load(None, ["chat.workers=4", "chat.websocket=tcp:8091", *own])
