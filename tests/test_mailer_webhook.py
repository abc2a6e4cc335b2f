"""Mail through a web service: a real one, a site of twisted.web."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from certificates import Authority
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.web.resource import Resource
from twisted.web.server import Site

from flux.backends.mailers import Outbox, WebhookPost
from flux.backends.mailers.outbox import Mail, NoSuchAddress, NotNow, Rejected
from flux.bench.servers import free_port
from flux.errors import Unavailable
from flux.tls.client import trust_from

SENDER = "flux <chat@example.net>"
SECRET = "a secret of sixteen characters"
TEXT = "Your code is 123456.\n.A line with a dot\nGrüße, 你好\n"


MAIL = Mail("abc", "ann@example.org", "Your code – Ваш код", TEXT)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


class Receiver(Resource):
    """Takes what it gets and answers with a status."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.status = 200
        self.body = b"thanks"
        self.got: list[tuple[bytes, Any, bytes]] = []

    def render(self, request: Any) -> bytes:
        self.got.append((request.method, request.requestHeaders, request.content.read()))
        request.setResponseCode(self.status)
        if self.status == 302:
            request.setHeader(b"location", b"/elsewhere")
        return self.body


@pytest_twisted.async_yield_fixture
async def receiver() -> Any:
    from twisted.internet import reactor

    resource = Receiver()
    site = Site(resource, reactor=reactor)
    site.noisy = False
    listening = reactor.listenTCP(0, site, interface="127.0.0.1")
    resource.url = f"http://127.0.0.1:{listening.getHost().port}/mail"
    yield resource
    await listening.stopListening()


async def test_the_webhook_signs_what_it_posts(receiver: Any) -> None:
    from twisted.internet import reactor

    await WebhookPost(reactor, receiver.url, SECRET, None, lambda: 1_700_000_000.9).deliver(MAIL)
    [(method, headers, body)] = receiver.got
    assert method == b"POST"
    assert json.loads(body) == {"id": "abc", "to": MAIL.to, "subject": MAIL.subject, "text": TEXT}
    [timestamp] = headers.getRawHeaders("X-Flux-Timestamp")
    assert timestamp == "1700000000"
    signature = hmac.new(SECRET.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert headers.getRawHeaders("X-Flux-Signature") == [f"sha256={signature}"]
    assert headers.getRawHeaders("Content-Type") == ["application/json"]


@pytest.mark.parametrize(
    ("status", "error"),
    [(204, None), (302, Rejected), (401, Rejected), (404, Rejected), (422, NoSuchAddress), (408, NotNow),
     (429, NotNow), (500, NotNow), (503, NotNow)],
)  # fmt: skip
async def test_what_a_web_service_answers(receiver: Any, status: int, error: type[Exception] | None) -> None:
    from twisted.internet import reactor

    receiver.status = status
    made = WebhookPost(reactor, receiver.url, SECRET, None)
    if error is None:
        await made.deliver(MAIL)
    else:
        with pytest.raises(error, match=str(status)):
            await made.deliver(MAIL)
    assert len(receiver.got) == 1


async def test_checking_the_webhook_sends_nothing(receiver: Any) -> None:
    from twisted.internet import reactor

    receiver.status = 405
    assert "answers 405" in await WebhookPost(reactor, receiver.url, SECRET, None).check()
    assert [(method, body) for method, _, body in receiver.got] == [(b"OPTIONS", b"")]
    with pytest.raises(NotNow, match="refused"):
        await WebhookPost(reactor, f"http://127.0.0.1:{free_port()}/", SECRET, None).check()


async def test_an_endless_answer(receiver: Any) -> None:
    from twisted.internet import reactor

    receiver.body = b"x" * 3_000_000
    with pytest.raises(NotNow, match="longer than"):
        await WebhookPost(reactor, receiver.url, SECRET, None).deliver(MAIL)


async def test_a_web_service_that_does_not_answer_in_time(flush_logged_errors: Any) -> None:
    from twisted.internet import reactor

    factory = Factory.forProtocol(Protocol)
    factory.noisy = False
    listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
    try:
        url = f"http://127.0.0.1:{listening.getHost().port}/"
        mailer = Outbox(WebhookPost(reactor, url, SECRET, None), reactor, 0.1, random.Random(1))
        with pytest.raises(Unavailable):
            await mailer.send("ann@example.org", "s", "t")
        assert "nothing after" in flush_logged_errors()[0]["why"]
    finally:
        await listening.stopListening()


async def test_the_webhook_over_tls(authority: Authority, tmp_path: Path) -> None:
    from twisted.internet import reactor

    certificate, key = authority.issue("localhost")
    resource = Receiver()
    site = Site(resource, reactor=reactor)
    site.noisy = False
    listening = reactor.listenSSL(0, site, DefaultOpenSSLContextFactory(key, certificate), interface="127.0.0.1")
    url = f"https://localhost:{listening.getHost().port}/"
    try:
        await WebhookPost(reactor, url, SECRET, trust_from(authority.path)).deliver(MAIL)
        assert len(resource.got) == 1
        with pytest.raises(NotNow, match=r": TLS: certificate verify failed$"):
            await WebhookPost(reactor, url, SECRET, trust_from(Authority(tmp_path, "another").path)).deliver(MAIL)
        assert len(resource.got) == 1
    finally:
        await listening.stopListening()


def test_certificates_that_are_none(tmp_path: Path) -> None:
    for name, text in (("empty", ""), ("bad", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=name):
            trust_from(tmp_path / name)
