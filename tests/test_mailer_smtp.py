"""Mail through a mail server: a real one, aiosmtpd."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from certificates import Authority
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol

from flux.backends.mailers import Outbox, SmtpPost
from flux.backends.mailers import outbox as outbox_module
from flux.backends.mailers import smtp as smtp_module
from flux.backends.mailers.outbox import Mail, NoSuchAddress, NotNow, Rejected
from flux.bench.servers import free_port
from flux.tls.client import trust_from

# aiosmtpd forgets to close what it has wrapped in TLS.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SENDER = "flux <chat@example.net>"
SECRET = "a secret of sixteen characters"
TEXT = "Your code is 123456.\n.A line with a dot\nGrüße, 你好\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


class Mailbox:
    """What an SMTP server does with what it gets.

    :ivar answers: per attempt to name a receiver; the last one counts from then on.
    """

    def __init__(self) -> None:
        self.answers = ["250 fine"]
        self.data_answer = "250 taken"
        self.received: list[tuple[Any, bytes, bool, bool]] = []
        self.login = ("flux", "correct horse")
        self.attempts = 0

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        self.attempts += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        if self.data_answer.startswith("2"):
            self.received.append((envelope, envelope.content, session.ssl is not None, session.authenticated))
        return self.data_answer

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        good = (data.login.decode(), data.password.decode()) == self.login
        return AuthResult(success=good, handled=good or None)


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def smtp(mailbox: Mailbox) -> Iterator[Callable[..., int]]:
    """Starts a server with the options given, and returns its port."""
    running: list[Controller] = []

    def start(**options: Any) -> int:
        controller = Controller(mailbox, hostname="127.0.0.1", port=free_port(), **options)
        controller.start()
        running.append(controller)
        return int(controller.port)

    yield start
    for controller in running:
        controller.stop()


def post(port: int, authority: Authority | None = None, **changes: Any) -> SmtpPost:
    from twisted.internet import reactor

    options = {"host": "localhost", "security": "none", "sender": SENDER, "user": "", "password": "", **changes}
    made = SmtpPost(reactor, port=port, trust=authority and trust_from(authority.path), **options)
    made.start()
    return made


MAIL = Mail("abc", "ann@example.org", "Your code – Ваш код", TEXT)


async def test_a_mail_arrives_as_it_was(smtp: Callable[..., int], mailbox: Mailbox) -> None:
    made = post(smtp())
    await made.deliver(MAIL)
    [(envelope, content, encrypted, _)] = mailbox.received
    assert (envelope.mail_from, envelope.rcpt_tos, encrypted) == ("chat@example.net", ["ann@example.org"], False)
    message = message_from_bytes(content, policy=default)
    assert (message["From"], message["To"], message["Subject"]) == (SENDER, MAIL.to, MAIL.subject)
    assert (message["Message-ID"], message["Auto-Submitted"]) == ("<abc@example.net>", "auto-generated")
    assert message.get_content().replace("\r\n", "\n") == TEXT
    assert content.isascii()
    assert b"\r\n" in content
    assert "takes mail: not encrypted" in await made.check()
    assert len(mailbox.received) == 1


async def test_starttls_and_login(smtp: Callable[..., int], mailbox: Mailbox, authority: Authority) -> None:
    port = smtp(
        tls_context=authority.context("localhost"), require_starttls=True, auth_required=True,
        authenticator=mailbox.authenticate,
    )  # fmt: skip
    made = post(port, authority, security="starttls", user="flux", password="correct horse")
    await made.deliver(MAIL)
    assert [(encrypted, known) for *_, encrypted, known in mailbox.received] == [(True, True)]
    assert "encrypted (STARTTLS), logged in as flux" in await made.check()
    wrong = post(port, authority, security="starttls", user="flux", password="wrong horse")
    for talk in (lambda: wrong.deliver(MAIL), wrong.check):
        with pytest.raises(Rejected, match="535") as told:
            await talk()
        assert "wrong horse" not in str(told.value)
    assert len(mailbox.received) == 1


async def test_tls_from_the_first_byte(smtp: Callable[..., int], mailbox: Mailbox, authority: Authority) -> None:
    made = post(smtp(ssl_context=authority.context("localhost")), authority, security="tls")
    await made.deliver(MAIL)
    assert len(mailbox.received) == 1


async def test_nothing_is_said_unencrypted_where_encryption_is_wanted(
    smtp: Callable[..., int], mailbox: Mailbox, authority: Authority
) -> None:
    with pytest.raises(Rejected, match="TLS"):
        await post(smtp(), authority, security="starttls").deliver(MAIL)
    assert mailbox.attempts == 0


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_a_certificate_of_somebody_else(
    smtp: Callable[..., int], mailbox: Mailbox, authority: Authority, security: str, tmp_path: Path
) -> None:
    context = Authority(tmp_path, "another").context("localhost")
    port = smtp(**({"tls_context": context} if security == "starttls" else {"ssl_context": context}))
    with pytest.raises(Rejected, match="verify failed"):
        await post(port, authority, security=security).deliver(MAIL)
    assert mailbox.attempts == 0


async def test_a_certificate_for_another_name(smtp: Callable[..., int], authority: Authority) -> None:
    port = smtp(tls_context=authority.context("mail.example.net"))
    with pytest.raises(Rejected, match="not for this name"):
        await post(port, authority, security="starttls").deliver(MAIL)


async def test_a_server_without_logins(smtp: Callable[..., int]) -> None:
    with pytest.raises(Rejected, match="502"):
        await post(smtp(), user="flux", password="x").deliver(MAIL)


async def test_greylisting(smtp: Callable[..., int], mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    from twisted.internet import reactor

    monkeypatch.setattr(outbox_module, "FIRST_PAUSE", 0.01)
    mailbox.answers = ["450 come back later", "451 not yet", "250 fine"]
    mailer = Outbox(post(smtp()), reactor, 20.0, random.Random(1))
    await mailer.send("ann@example.org", "s", "t")
    assert (mailbox.attempts, len(mailbox.received)) == (3, 1)


@pytest.mark.parametrize(
    ("answer", "data_answer", "error"),
    [
        ("550 no such user", "250 taken", NoSuchAddress),
        ("450 later", "250 taken", NotNow),
        ("250 fine", "554 this looks like spam", Rejected),
        ("250 fine", "452 disk full", NotNow),
    ],
)
async def test_what_a_server_says_no_to(
    smtp: Callable[..., int], mailbox: Mailbox, answer: str, data_answer: str, error: type[Exception]
) -> None:
    mailbox.answers, mailbox.data_answer = [answer], data_answer
    said = answer if error is NoSuchAddress or answer[0] == "4" else data_answer
    with pytest.raises(error, match=said):
        await post(smtp()).deliver(MAIL)
    assert mailbox.received == []


async def test_a_dead_host() -> None:
    with pytest.raises(NotNow, match="refused"):
        await post(free_port()).deliver(MAIL)


class Mute(Protocol):
    """Listens and says nothing, or something that is no SMTP, or goes away."""

    words = b""
    goes = False

    def connectionMade(self) -> None:
        self.transport.write(self.words)
        if self.goes:
            self.transport.loseConnection()


@pytest.mark.parametrize(
    ("words", "goes", "why"),
    [(b"", False, "Timeout"), (b"", True, "closed"), (b"HTTP/1.1 400 no\r\n", False, "Invalid response")],
)
async def test_what_is_no_mail_server(words: bytes, goes: bool, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from twisted.internet import reactor

    client = smtp_module._client_class()
    monkeypatch.setattr(client, "timeout", 0.1)
    factory = Factory.forProtocol(type("Told", (Mute,), {"words": words, "goes": goes}))
    factory.noisy = False
    listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
    try:
        with pytest.raises(NotNow, match=why):
            await post(listening.getHost().port).deliver(MAIL)
    finally:
        await listening.stopListening()


async def test_giving_up_ends_the_conversation() -> None:
    from twisted.internet import reactor

    gone: Deferred[None] = Deferred()
    here: Deferred[None] = Deferred()

    class Listener(Protocol):
        def connectionMade(self) -> None:
            here.callback(None)

        def connectionLost(self, reason: Any = None) -> None:
            gone.callback(None)

    factory = Factory.forProtocol(Listener)
    factory.noisy = False
    listening = reactor.listenTCP(0, factory, interface="127.0.0.1")
    talking = Deferred.fromCoroutine(post(listening.getHost().port).deliver(MAIL))
    await here
    talking.cancel()
    with pytest.raises(CancelledError):
        await talking
    await gone
    await listening.stopListening()
