"""The client: what a program needs to chat, on any Twisted reactor.

::

    from flux.client import Client, Message, Online, Offline, Ended

    client = Client(reactor, [("127.0.0.1", 8090)])
    await client.register("zhang san", "correct horse")          # once; opens and closes a connection of its own
    me = await client.login("zhang san", password="correct horse")  # or login(22, token="...")
    receipt = await client.send("hello", to=7)                   # or group=3; returns once it is committed
    async for event in client.events:                            # one consumer; ends after Ended
        match event:
            case Message(): ...                                  # acknowledged when the next event is asked for
            case Offline(reason=reason, retry_in=seconds): ...   # reconnects by itself
            case Ended(reason=reason): ...                       # logout, closed, takeover, admin, password, ...
    await client.logout()                                        # or close(): leaves, the session ends with the link

What it promises:

- A send resolves exactly once, and several sends to one chat keep their order: each carries a ``cid`` and is
  repeated, after ``unavailable``, ``rate_limited`` or a broken connection, until the server said yes or no.
  At most ``max_pending`` wait at a time; one more raises :class:`QueueFull`.
- Every message of others appears once in ``events``, in the order of its chat, across reconnects, unless ``history()``
  has returned it before: the application has it then. What was taken from ``events`` is acknowledged (gathered, 200 ms
  or 50 messages), what was not comes again after the next login. The server writes that down once a second, so what was
  acknowledged within the last second may come again to the next session, also after ``logout()`` or ``close()``.
- The connection is watched by pings and restored with jittered backoff (0.1 s to 10 s), rotating through the addresses.
  ``moved`` is followed. A session that was taken over, kicked or refused ends with :class:`Ended`.
- Where a status service gives users their servers, ``login_through(locate)`` asks it for a server and a token before
  every attempt, so the session goes on at another server when its own is gone::

    status = StatusClient(reactor, [("127.0.0.1", 50052)])
    await client.login_through(lambda: status.locate(22))

  From outside, a gate is asked over HTTP; it also registers accounts and resets passwords::

    gate = GateClient(reactor, "https://chat.example.net")
    await client.login_through(gate.locator("zhang san", password="correct horse"))

- With ``tls=True`` every connection begins with TLS, and the server's certificate is checked against those that the
  system trusts, or ``trust=trust_from(path)``. Assignments say themselves whether a server speaks TLS.
- Requests (``friends()``, ``history()``, ... one method per request of the protocol, or ``request(struct, reply)``)
  raise the error the server named (:mod:`flux.errors`), :class:`NotConnected` or :class:`DeadlineExceeded`.

How the parts move::

    Connection   one TCP connection: lines, requests and their replies, pings
    GateClient   accounts over HTTP, and the way to a chat server
    StatusClient what a status service knows: servers and tokens
    Client       what an application calls
      Servers    which address is tried next, and how it is reached
      Session    one session over many connections: login, reconnect, moved, end
        Outbox   sends, a lane per chat, until each is answered
        Inbox    events until the application takes them; stops the reading when full
        Seen     which messages were there already
        Cursors  ``received`` and ``read``, gathered
"""

from flux.addresses import HostPort
from flux.client.client import Client
from flux.client.connection import parse_address
from flux.client.errors import ClientError, NotConnected, QueueFull, SessionEnded
from flux.client.events import ClientEvent, Connecting, Ended, Offline, Online
from flux.client.gate import GateClient, Locator, parse_url
from flux.client.session import Locate
from flux.client.status import StatusClient
from flux.lifecycle import DeadlineExceeded
from flux.model.chats import Role
from flux.model.events import FriendAnswered, FriendRequested, GroupChanged, Presence, ReadUpTo, Typing
from flux.model.messages import Message
from flux.model.placement import Assignment
from flux.tls.client import trust_from
from flux.wire.replies import HistoryOk, LoginOk, RegisterOk, SendOk

__all__ = [
    "Assignment",
    "Client",
    "ClientError",
    "ClientEvent",
    "Connecting",
    "DeadlineExceeded",
    "Ended",
    "FriendAnswered",
    "FriendRequested",
    "GateClient",
    "GroupChanged",
    "HistoryOk",
    "HostPort",
    "Locate",
    "Locator",
    "LoginOk",
    "Message",
    "NotConnected",
    "Offline",
    "Online",
    "Presence",
    "QueueFull",
    "ReadUpTo",
    "RegisterOk",
    "Role",
    "SendOk",
    "SessionEnded",
    "StatusClient",
    "Typing",
    "parse_address",
    "parse_url",
    "trust_from",
]
