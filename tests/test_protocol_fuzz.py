"""Any requests in any order, from several clients: each gets its one reply, and never a bug."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from chat_server import PASSWORD, ChatServer, Client
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flux.errors import Internal
from flux.wire.requests import CHAT

#: Small numbers: users are 1 to 3, groups and chats begin at 1, so most mean something.
NUMBERS = st.integers(1, 6)
SEQS = st.integers(0, 6) | st.just(2**63 - 1)
TEXTS = st.sampled_from(["x", "\U0001f600", "a\nb", "%", "' OR 1=1 --", "\u0130", "x" * 50])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("id", "to", "from", "group", "chat"), NUMBERS),
    **dict.fromkeys(("seq", "before", "after"), SEQS),
    **dict.fromkeys(("text", "cid", "note", "remark", "description", "nick", "query"), TEXTS),
    **dict.fromkeys(("acks", "accept", "closed"), st.booleans()),
    **dict.fromkeys(("password", "old", "new"), st.sampled_from([PASSWORD, "another one", "x"])),
    "name": st.sampled_from(["ann", "bob", "cy", "dan", "Ann "]),
    "limit": st.sampled_from([1, 3, 10**9]),
    "history": st.sampled_from(["open", "joined"]),
    "role": st.sampled_from(["owner", "admin", "member"]),
    "email": st.just("a@example.org"),
    **dict.fromkeys(("code", "token", "sex", "icon"), st.just("x")),
    "request": st.sampled_from(["", "send", "nope"]),
}


def requests_of(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """Requests of a type: what must be there, and some of the rest."""
    import msgspec

    fields = [field for field in msgspec.structs.fields(CHAT.requests[kind]) if field.encode_name != "ref"]
    required = {field.encode_name: VALUES[field.encode_name] for field in fields if field.required}
    optional = {field.encode_name: VALUES[field.encode_name] for field in fields if not field.required}
    if kind == "group.create":
        optional["history"] = st.sampled_from(["open", "joined"])
    return st.fixed_dictionaries({"type": st.just(kind), **required}, optional=optional)


ANY = st.sampled_from([kind for kind in CHAT.requests if kind not in ("logout", "help")]).flatmap(requests_of)
PEOPLE = ("ann", "bob", "cy")


# A failure waits for its deadline: to look for a smaller one would take long.
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(st.lists(st.tuples(st.integers(0, 2), ANY), min_size=10, max_size=60), st.booleans())
async def test_every_request_gets_one_reply_and_none_is_a_bug(
    requests: list[tuple[int, dict[str, Any]]], pipelined: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = await ChatServer(
            Path(folder), limits__logins_per_minute=0, limits__logins_per_minute_address=0
        ).start()
        try:
            clients = await server.people(*PEOPLE, acks=True)
            sent: dict[int, Client] = {}
            for number, (who, request) in enumerate(requests):
                client = clients[who]
                if client.closed:
                    client = clients[who] = await server.connect()
                sent[number] = client
                client.raw(json.dumps({**request, "ref": number}).encode() + b"\n")
                if not pipelined and not CHAT.requests[request["type"]].no_reply:
                    await answered(client, number)
            for client in clients:
                client.tell("ping", ref="end")
            for client in clients:
                await answered(client, "end")
            for number, client in sent.items():
                if requests[number][1]["type"] == "send":  # later replies may overtake this one
                    await answered(client, number)
            check_replies(server.clients, [request for _, request in requests])
            for number, (_, request) in enumerate(requests):
                if not sent[number].closed and not CHAT.requests[request["type"]].no_reply:
                    assert number in [line.get("ref") for line in sent[number].lines]
            await server.advance(6)
        finally:
            await server.stop()


async def answered(client: Client, ref: int | str) -> None:
    await client.until(lambda: client.closed or any(line.get("ref") == ref for line in client.lines))


def check_replies(clients: list[Client], requests: list[dict[str, Any]]) -> None:
    for client in clients:
        seen = [line["ref"] for line in client.lines if isinstance(line.get("ref"), int)]
        assert len(seen) == len(set(seen))
        for line in client.lines:
            number = line.get("ref")
            if isinstance(number, int):
                kind = requests[number]["type"]
                assert line["type"] == f"{kind}.ok" or (line["type"], line["request"]) == ("error", kind)
                assert line["type"] != f"{kind}.ok" or not CHAT.requests[kind].no_reply
            assert (line["type"], line.get("name")) != ("error", Internal.name)
