"""Mail through a web service of the admin's: each is a signed POST.

::

    POST /where/it/listens
    Content-Type: application/json
    X-Flux-Timestamp: 1700000000                      seconds since the epoch
    X-Flux-Signature: sha256=<hex HMAC of "timestamp.body" with mail.secret>

    {"id":"<the same when it is repeated>","to":"ann@example.org","subject":"...","text":"..."}

2xx: taken.  422: there is no such address.  408, 425, 429, 5xx and no answer: tried again.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from flux.backends.mailers.outbox import Mail, NoSuchAddress, NotNow, Rejected
from flux.httpclient import HttpClient, NoAnswer

PASSING = frozenset((408, 425, 429))
"""Answers of the 4xx that another attempt may change."""

_encode = msgspec.json.Encoder().encode


class WebhookPost:
    """Posts to ``url``.

    :param secret: the key of the signatures.
    :param trust: whose certificates the service's must be signed by; None: those the system trusts.
    :param wall: the time of day in seconds since the epoch.
    """

    def __init__(self, reactor: Any, url: str, secret: str, trust: Any, wall: Callable[[], float] = time.time) -> None:
        self._url = url
        self._secret = secret.encode()
        self._wall = wall
        self._http = HttpClient(reactor, trust)

    def start(self) -> None:
        """Nothing to prepare."""

    async def deliver(self, mail: Mail) -> None:
        """See :meth:`Post.deliver`."""
        body = _encode({"id": mail.ident, "to": mail.to, "subject": mail.subject, "text": mail.text})
        timestamp = str(int(self._wall()))
        signature = hmac.new(self._secret, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
        code = await self._request(
            "POST",
            {
                "Content-Type": "application/json",
                "X-Flux-Timestamp": timestamp,
                "X-Flux-Signature": f"sha256={signature}",
            },
            body,
        )
        if code == 422:
            raise NoSuchAddress(f"{self._url} answered {code}")
        if not 200 <= code < 300:
            passing = code >= 500 or code in PASSING
            raise (NotNow if passing else Rejected)(f"{self._url} answered {code}")

    async def check(self) -> str:
        """Ask what the service can do: any answer shows that it is there."""
        code = await self._request("OPTIONS", {})
        return f"{self._url} is there (it answers {code} to OPTIONS); nothing was sent"

    async def _request(self, method: str, headers: Mapping[str, str], body: bytes | None = None) -> int:
        """The status of the answer; the rest of it is of no interest."""
        try:
            return (await self._http.request(method, self._url, headers, body)).status
        except NoAnswer as problem:
            raise NotNow(f"{self._url}: {problem}") from problem
