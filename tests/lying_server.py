"""A small chat server in memory that can be told to break its promises.

It speaks as much of the named dialect as a conversation needs.  A lie is a subclass
that overrides ``store`` (what becomes of a sent message) or ``show`` (what a member is
pushed).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

Fields = dict[str, Any]


class Link(LineOnlyReceiver):
    """One connection."""

    delimiter = b"\n"
    MAX_LENGTH = 131072
    factory: HonestServer
    transport: ITCPTransport

    def connectionMade(self) -> None:
        self.uid = 0
        self.factory.links.append(self)

    def lineReceived(self, line: bytes) -> None:
        request = json.loads(line)
        answer = getattr(self.factory, "on_" + request["type"].replace(".", "_"))(self, request)
        if answer is not None:
            self.push({"type": request["type"] + ".ok", "ref": request.get("ref"), **answer})
            self.factory.answered()

    def push(self, fields: Fields) -> None:
        self.transport.write(json.dumps(fields).encode() + b"\n")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.links.remove(self)


class HonestServer(ServerFactory):
    """Keeps all promises."""

    protocol = Link
    noisy = False

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.names: list[str] = []
        self.chats: list[list[Fields]] = []
        self.members: list[set[int]] = []
        self.pairs: dict[tuple[int, ...], int] = {}
        self.outgoing: list[tuple[int, Fields]] = []

    # what a lie overrides

    def store(self, chat: list[Fields], message: Fields) -> Iterator[Fields]:
        """Append ``message`` to ``chat``; yields what members are shown of it."""
        chat.append(message)
        yield message

    def show(self, viewer: int, message: Fields) -> Iterator[Fields]:
        """What ``viewer`` is pushed when it is time to show ``message``."""
        yield message

    # requests

    def on_register(self, link: Link, request: Fields) -> Fields:
        self.names.append(request["name"])
        return {"id": len(self.names), "name": request["name"]}

    def on_login(self, link: Link, request: Fields) -> Fields:
        link.uid = request["id"]
        profile = dict.fromkeys(("nick", "description", "sex", "icon"), "")
        lists: Fields = {"friends": [], "friend_requests": [], "groups": [], "unread": []}
        return {"protocol": 1, "server": "liar", "id": link.uid, "name": self.names[link.uid - 1], **profile, **lists}

    def on_group_create(self, link: Link, request: Fields) -> Fields:
        chat = self._new_chat({link.uid})
        return {"group": chat, "chat": chat, "name": request["name"]}

    def on_group_join(self, link: Link, request: Fields) -> Fields:
        self.members[request["group"] - 1].add(link.uid)
        return {"group": request["group"], "chat": request["group"]}

    def on_received(self, link: Link, request: Fields) -> None:
        """Nothing is kept back, so nothing is sent again."""

    def on_send(self, link: Link, request: Fields) -> Fields | None:
        target = {key: request[key] for key in ("to", "group") if request.get(key)}
        chat = target.get("group") or self._pair(link.uid, target["to"])
        lines = self.chats[chat - 1]
        seq = len(lines) + 1
        message = {
            "type": "message", "chat": chat, "seq": seq, "from": link.uid, "name": self.names[link.uid - 1],
            "text": request["text"], "at": 1000 + seq, **target,
        }  # fmt: skip
        for shown in self.store(lines, message):
            for viewer in self.members[chat - 1] - {link.uid}:
                self.outgoing += [(viewer, line) for line in self.show(viewer, shown)]
        return {"chat": chat, "seq": seq, "at": message["at"], "cid": request["cid"], "duplicate": False}

    def on_history(self, link: Link, request: Fields) -> Fields | None:
        before = [line for line in self.chats[request["chat"] - 1] if line["seq"] < request.get("before", 10**9)]
        limit = request["limit"]
        return {"chat": request["chat"], "messages": before[-limit:], "more": len(before) > limit}

    def answered(self) -> None:
        """Push what is due."""
        outgoing, self.outgoing = self.outgoing, []
        for viewer, line in outgoing:
            for link in self.links:
                if link.uid == viewer:
                    link.push(line)

    def _pair(self, uid: int, other: int) -> int:
        key = tuple(sorted((uid, other)))
        if key not in self.pairs:
            self.pairs[key] = self._new_chat(set(key))
        return self.pairs[key]

    def _new_chat(self, members: set[int]) -> int:
        self.chats.append([])
        self.members.append(members)
        return len(self.chats)
