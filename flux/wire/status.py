"""The requests and replies of the status port.

A docstring is what ``help`` tells a person about the request, ``answer`` the fields
of its ``.ok`` reply.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import UNSET, Meta, UnsetType

from flux.model.placement import Assignment, Node, NodeState
from flux.wire import fields
from flux.wire.catalogue import Catalogue, Reply, Request
from flux.wire.replies import ListReply
from flux.wire.requests import Help

MOST_UIDS = 1000
"""Accounts in one ``get_chat_server``."""

ServerName = Annotated[str, Meta(min_length=1, max_length=64)]
Uids = Annotated[list[fields.Id], Meta(min_length=1, max_length=MOST_UIDS)]


class Auth(Request, tag="auth"):
    """Show the cluster key; where one is set this must be the first request."""

    key: fields.Secret


class GetChatServer(Request, tag="get_chat_server"):
    """A chat server and a login token for uid, or for each of uids (at most 1000); not the one they are leaving."""

    uid: fields.Id = 0
    uids: Uids | UnsetType = UNSET
    leaving: ServerName | UnsetType = UNSET
    answer: ClassVar[str] = "uid, host, port, server, token, expires, websocket, tls; or assignments: a list of those"


class VerifyToken(Request, tag="login"):
    """Whether the token lets uid log in."""

    uid: fields.Id
    token: fields.Secret
    answer: ClassVar[str] = "uid"


class ListServers(Request, tag="servers"):
    """The chat servers and their loads."""

    answer: ClassVar[str] = (
        "servers: [name, host, port, sessions, reserved, capacity, weight, state (up, draining, unready, down or "
        "unknown), heartbeat_age]; age: seconds since that was read; problem: why it cannot be read now, or empty"
    )


class Drain(Request, tag="drain"):
    """Give the server no more users; it asks those it has to move."""

    server: ServerName
    answer: ClassVar[str] = "server, state"


class Resume(Request, tag="resume"):
    """Undo drain."""

    server: ServerName
    answer: ClassVar[str] = "server, state"


class StatusPing(Request, tag="ping"):
    """Ask for a sign of life."""

    answer: ClassVar[str] = "at"


STATUS = Catalogue([Auth, GetChatServer, VerifyToken, ListServers, Drain, Resume, StatusPing, Help])
"""Everything the status port understands."""


class AuthOk(Reply, tag="auth.ok"):
    """The key is right."""


class GetChatServerOk(Reply, tag="get_chat_server.ok"):
    """Where the account is to log in; ``expires`` in ms since the epoch."""

    uid: int
    host: str
    port: int
    server: str
    token: str
    expires: int
    websocket: str = ""
    tls: bool = False


class GetChatServersOk(Reply, tag="get_chat_server.ok"):
    """Where the accounts are to log in, in the order of the request."""

    assignments: list[Assignment]


class VerifyTokenOk(Reply, tag="login.ok"):
    """The token is valid."""

    uid: int


class ServersOk(ListReply, tag="servers.ok"):
    """The chat servers, as they were known ``age`` seconds ago; ``problem`` says why they cannot be known better."""

    servers: list[Node]
    age: float = 0.0
    problem: str = ""
    lists: ClassVar[tuple[str, ...]] = ("servers",)


class DrainOk(Reply, tag="drain.ok"):
    """The server gets no more users."""

    server: str
    state: NodeState


class ResumeOk(Reply, tag="resume.ok"):
    """The server gets users again, if it is up."""

    server: str
    state: NodeState
