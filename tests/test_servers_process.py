"""What a chat server's configuration says of it, and which users the status service gives it then."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from processes import Person, Place
from redis_parts import new_prefix

from flux.bench.engines import RedisServer

pytestmark = pytest.mark.slow


def test_advertised_address_weight_and_capacity_are_what_users_are_given_by(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with ExitStack() as stack:
        place = Place(
            tmp_path, stack, state__kind="redis", state__url=redis_server.url, state__prefix=new_prefix()
        )  # fmt: skip
        place.start("flux-status")
        place.start("flux-chat", "--set", "chat.weight=3", "--set", "chat.capacity=4")
        place.start(
            "flux-chat",
            *("--set", "chat.name=chat2", "--set", "chat.listen=tcp:0:interface=127.0.0.1"),
            *("--set", f"store.path={tmp_path / 'other.db'}", "--set", "chat.advertise=chat.example.net:5000"),
        )
        status, output, _ = place.admin("servers", "--json")
        seen = [(node["name"], node["port"], node["weight"], node["capacity"]) for node in json.loads(output)]
        assert (status, seen) == (0, [("chat1", place.chat, 3, 4), ("chat2", 5000, 1, 0)])

        asking = stack.enter_context(closing(Person(place.status)))
        given: Counter[tuple[str, str, int]] = Counter()

        def ask_for(*uids: int) -> dict[tuple[str, str, int], int]:
            for uid in uids:
                answer = asking.ask("get_chat_server", uid=uid)
                given[answer["server"], answer["host"], answer["port"]] += 1
            return dict(given)

        first, second = ("chat1", "127.0.0.1", place.chat), ("chat2", "chat.example.net", 5000)
        assert ask_for(1, 2, 3, 4) == {first: 3, second: 1}
        assert ask_for(5, 6, 7, 8) == {first: 4, second: 4}
