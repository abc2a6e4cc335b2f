"""What can go wrong on the client's side; what the server says is in :mod:`flux.errors`.

ClientError
├── NotConnected    no connection, or it broke before the answer came
├── SessionEnded    the session is over for good
└── QueueFull       too much is waiting already
"""

from __future__ import annotations


class ClientError(Exception):
    """Base; the text is a sentence for people."""


class NotConnected(ClientError):
    """There is no connection, or it broke: whether the request had its effect is unknown."""


class SessionEnded(ClientError):
    """The session is over and does not come back by itself.

    :ivar reason: as in :class:`flux.client.events.Ended`.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class QueueFull(ClientError):
    """A bounded queue of the client is full: wait for answers before asking for more."""
