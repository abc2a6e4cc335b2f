"""Draining whole processes through the status port, as an admin does."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from processes import ALONE, PASSWORD, Place, ended
from redis_parts import new_prefix

from flux.bench.engines import RedisServer

pytestmark = pytest.mark.slow


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_drained_chat_server_ends_at_its_deadline_and_serves_when_it_is_started_again(
    tmp_path: Path, stack: ExitStack, redis_server: RedisServer
) -> None:
    place = Place(
        tmp_path, stack, state__kind="redis", state__url=redis_server.url, state__prefix=new_prefix()
    )  # fmt: skip
    place.start("flux-status")
    chat = place.start("flux-chat")
    person = place.log_in()
    draining = place.start_admin("drain", "chat1", "--wait")
    chat.wait_for("draining: no new logins")
    # There is no other server for her, and she stays as long as she may.
    chat.wait_for("no other server for clients, the next try is in")
    assert person.next() == {"type": "kicked", "reason": "shutdown"}
    assert person.next() == {"type": "closed"}
    chat.wait_for("clients closed for whom no other server was found: 1")
    assert ended(draining) == (0, "chat1 is down\n", ALONE)
    chat.wait_for("drained: this process ends")
    assert chat.end() == (0, "")

    again = place.start("flux-chat")
    assert place.log_in().ask("ping")["type"] == "ping.ok"
    status, output, _ = place.admin("servers", "--json")
    [node] = json.loads(output)
    assert (status, node["name"], node["state"]) == (0, "chat1", "up")
    again.signal(signal.SIGTERM)
    assert again.end() == (0, "")
    assert not any("draining" in line for line in again.lines)


def test_a_drained_chat_server_ends_although_a_client_stays(
    tmp_path: Path, stack: ExitStack, redis_server: RedisServer
) -> None:
    place = Place(
        tmp_path, stack, state__kind="redis", state__url=redis_server.url, state__prefix=new_prefix()
    )  # fmt: skip
    place.start("flux-status")
    chat = place.start("flux-chat")
    person = place.log_in()
    other = {"chat.name": "chat2", "chat.listen": "tcp:0:interface=127.0.0.1", "store.path": str(tmp_path / "other.db")}
    place.start("flux-chat", *(word for key, value in other.items() for word in ("--set", f"{key}={value}")))
    draining = place.start_admin("drain", "chat1", "--wait")
    moved = person.next()
    assert (moved["type"], moved["server"], moved["reason"]) == ("moved", "chat2", "drain")
    # And does not go.
    assert person.next() == {"type": "kicked", "reason": "shutdown"}
    assert person.next() == {"type": "closed"}
    assert ended(draining) == (0, "chat1 is down\n", "")
    chat.wait_for("drained: this process ends")
    assert chat.end() == (0, "")


def test_a_process_with_a_status_service_goes_on(tmp_path: Path, stack: ExitStack) -> None:
    place = Place(tmp_path, stack)
    process = place.start("flux")
    person = place.log_in()
    assert place.admin("drain", "chat1") == (0, "chat1 is draining\n", ALONE)
    process.wait_for("no other server for clients")
    assert person.next() == {"type": "kicked", "reason": "shutdown"}
    process.wait_for("drained; this process goes on, because the status service is in it too")
    assert place.person().ask("login", name="ann", password=PASSWORD)["name"] == "no_server"
    assert place.admin("resume", "chat1") == (0, "chat1 is up\n", "")
    process.wait_for("taking logins again")
    assert place.log_in().ask("ping")["type"] == "ping.ok"
    process.signal(signal.SIGTERM)
    assert process.end() == (0, "")


def test_behind_a_proxy_the_log_has_the_clients_address(tmp_path: Path, stack: ExitStack) -> None:
    place = Place(tmp_path, stack)
    place.settings["chat.listen"] = "haproxy:" + place.settings["chat.listen"]
    process = place.start("flux")
    process.wait_for("for a proxy that sends PROXY headers")
    client = socket.create_connection(("127.0.0.1", place.chat))
    client.sendall(b"PROXY TCP4 203.0.113.7 127.0.0.1 5555 8090\r\n" + b"{}\n" * 20)
    assert process.wait_for("bad lines in a row").count("from 203.0.113.7, closed") == 1
    client.close()


def test_the_status_service_tells_what_became_of_a_chat_server(
    tmp_path: Path, stack: ExitStack, redis_server: RedisServer
) -> None:
    place = Place(
        tmp_path, stack, state__kind="redis", state__url=redis_server.url, state__prefix=new_prefix(),
        status__lease="1",
    )  # fmt: skip
    status = place.start("flux-status")
    where = f"chat server chat1 at 127.0.0.1:{place.chat}"
    for how, said, listed, why in (
        (signal.SIGTERM, rf" info .* {where} has stopped$", "stopped", ""),
        (signal.SIGKILL, rf" warn .* {where} is down: its lease has lapsed, last heartbeat \d s ago$", "down",
         "its lease has lapsed"),
    ):  # fmt: skip
        chat = place.start("flux-chat")
        status.wait_for(f"{where} is up")
        chat.signal(how)
        chat.end()
        assert re.search(said, status.wait_for(f"{where} "))
        [node] = json.loads(place.admin("servers", "--json")[1])
        assert (node["state"], node["why"]) == ("down", why)
        for_people = place.admin("servers")[1]
        assert f" {listed} " in for_people
        assert ("chat1 is down: " + why in for_people) == bool(why)
    place.start("flux-chat")
    status.wait_for(f"{where} is up")
    redis_server.empty()
    assert " warn " in status.wait_for("the shared state was emptied")
    # It reports again, and was never down.
    done, output, errors = place.admin("servers", "--json")
    assert (done, errors, [node["state"] for node in json.loads(output)]) == (0, "", ["up"])
    emptied = len(status.lines)
    status.signal(signal.SIGTERM)
    assert status.end() == (0, "")
    assert not any("is down" in line for line in status.lines[emptied:])
