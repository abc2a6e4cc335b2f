"""Mail through a mail server: one connection per mail, encrypted and authenticated as configured."""

from __future__ import annotations

from collections.abc import Sequence
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, parseaddr
from functools import cache
from io import BytesIO
from typing import Any

from OpenSSL.SSL import Error as TlsError
from service_identity import VerificationError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.protocol import connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure

from flux.addresses import HostPort
from flux.backends.mailers.outbox import Mail, NoSuchAddress, NotNow, Rejected
from flux.lifecycle import insulated

CONNECT_WITHIN = 10.0
"""Seconds a mail server may take to accept the connection, and again for each answer."""

#: Lines end as twisted.mail wants them; nothing in them needs eight bits.
_POLICY = SMTP.clone(linesep="\n", cte_type="7bit")


class SmtpPost:
    """Delivers to one mail server.

    :param security: ``starttls``, ``tls`` or ``none``.
    :param sender: the From address, with a name or without.
    :param user: to log in as; empty: no login.
    :param trust: whose certificates the server's must be signed by; None: those the system trusts.
    """

    def __init__(
        self, reactor: Any, host: str, port: int, security: str, sender: str, user: str, password: str, trust: Any
    ) -> None:
        self._reactor = reactor
        self._host = host
        self._port = port
        self._security = security
        self._sender = sender
        self._user = user
        self._password = password
        self._trust = trust

    def start(self) -> None:
        """Import what would be slow later: twisted.mail asks the resolver for this machine's name."""
        _client_class()

    async def deliver(self, mail: Mail) -> None:
        """See :meth:`Post.deliver`."""
        await self._talk(mail)

    async def check(self) -> str:
        """Connect, encrypt and log in, as for a mail."""
        await self._talk(None)
        how = {"starttls": "encrypted (STARTTLS)", "tls": "encrypted (TLS)", "none": "not encrypted"}[self._security]
        login = f", logged in as {self._user}" if self._user else ""
        return f"{HostPort(self._host, self._port)} takes mail: {how}{login}"

    async def _talk(self, mail: Mail | None) -> None:
        where = str(HostPort(self._host, self._port))
        options = {} if self._trust is None else {"trustRoot": self._trust}
        tls: IOpenSSLClientConnectionCreator = optionsForClientTLS(self._host, **options)
        endpoint: Any = HostnameEndpoint(self._reactor, self._host, self._port, CONNECT_WITHIN)
        if self._security == "tls":
            endpoint = wrapClientTLS(tls, endpoint)
        client = _client_class()(
            tls if self._security == "starttls" else None,
            self._user,
            self._password,
            parseaddr(self._sender)[1],
            None if mail is None else (mail.to, _message(mail, self._sender)),
        )
        try:
            await insulated(connectProtocol(endpoint, client))
        except CancelledError:
            raise
        except Exception as problem:
            raise NotNow(f"mail server {where}: {str(problem) or type(problem).__name__}") from problem
        try:
            await client.done
        except CancelledError:
            client.transport.abortConnection()
            raise
        except (NotNow, Rejected, NoSuchAddress) as problem:
            raise type(problem)(f"mail server {where}: {problem}") from None
        # Its last words (QUIT, and the answer to it) are the connection's own business, with a time limit of its own.


def _message(mail: Mail, sender: str) -> bytes:
    message = EmailMessage(_POLICY)
    message["From"] = sender
    message["To"] = mail.to
    message["Subject"] = mail.subject
    message["Date"] = formatdate()
    message["Message-ID"] = f"<{mail.ident}@{parseaddr(sender)[1].rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.text)
    return message.as_bytes()


@cache
def _client_class() -> Any:
    """The protocol; made when it is needed, since twisted.mail imports the reactor at its top."""
    from twisted.mail import smtp

    class Client(smtp.ESMTPClient):
        """One conversation; ``done`` fires when the mail is taken, or when there is none to be sent.

        :param tls: how to encrypt after STARTTLS; None where that is not wanted.
        :param mail: receiver and message; None only logs in.
        """

        timeout: Any = CONNECT_WITHIN
        # What was said is never kept: the password is in it.
        debug = False
        transport: Any

        def __init__(self, tls: Any, user: str, password: str, sender: str, mail: tuple[str, bytes] | None) -> None:
            super().__init__(password.encode(), tls, smtp.DNSNAME)
            self.requireAuthentication = bool(user)
            self.requireTransportSecurity = tls is not None
            if user:
                for authenticator in (
                    smtp.CramMD5ClientAuthenticator,
                    smtp.PLAINAuthenticator,
                    smtp.LOGINAuthenticator,
                ):
                    self.registerAuthenticator(authenticator(user.encode()))
            self.done: Deferred[None] = Deferred(lambda _: None)
            self._sender = sender
            self._mail = mail

        def esmtpState_starttls(self, code: int, resp: bytes) -> None:
            # What came before the encryption could be anybody's word.
            self.clearLineBuffer()
            super().esmtpState_starttls(code, resp)

        def getMailFrom(self) -> str | None:
            if self._mail is None:
                self._end(None)
                return None
            return None if self.done.called else self._sender

        def getMailTo(self) -> list[bytes]:
            assert self._mail is not None
            return [self._mail[0].encode("ascii")]

        def getMailData(self) -> BytesIO:
            assert self._mail is not None
            return BytesIO(self._mail[1])

        def sentMail(
            self, code: int, resp: bytes, numOk: int, addresses: Sequence[tuple[bytes, int, bytes]], log: object
        ) -> None:
            if code in smtp.SUCCESS:
                self._end(None)
            else:
                refused = addresses[0] if addresses and not numOk else None
                words = _words(refused[2] if refused else resp)
                permanent = NoSuchAddress if refused else Rejected
                self._end((NotNow if code < 500 else permanent)(f"{code} {words}"))

        def sendError(self, exc: Exception) -> None:
            super().sendError(exc)
            code: int = getattr(exc, "code", -1)
            words = _words(getattr(exc, "resp", b"") or b"")
            self._end((Rejected if code >= 500 else NotNow)(f"{code} {words}" if code > 0 else words))
            if code < 0:
                self.transport.abortConnection()

        def connectionLost(self, reason: Failure = connectionDone) -> None:
            super().connectionLost(reason)
            error = reason.value
            if isinstance(error, VerificationError):
                self._end(Rejected(f"its certificate is not for this name: {error}"))
            elif isinstance(error, TlsError):
                self._end(Rejected(f"TLS failed: {_tls_words(error)}"))
            else:
                self._end(NotNow(f"it closed the connection: {error}"))

        def _end(self, problem: Exception | None) -> None:
            if self.done.called:
                return
            if problem is None:
                self.done.callback(None)
            else:
                self.done.errback(problem)

    return Client


def _words(answer: bytes | str) -> str:
    """What a server said, on one line."""
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
    return " ".join(text.split())[:200]


def _tls_words(error: TlsError) -> str:
    reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(str(reason[-1]) for reason in reasons) or "the connection ended"
