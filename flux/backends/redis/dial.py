"""Getting from ``[state] url`` to a connection that can be used: found, opened, let in, looked at.

::

    find          the host of the URL, or what the Sentinels say is the primary
    open          TCP, and TLS where the URL wants it
    sign_in       AUTH, SELECT
    examine       a primary? which one? what does it do when it is full?

Every step says in one sentence what is wrong and names the setting.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from flux.addresses import HostPort
from flux.backends.redis.connection import Connection, Refused, make_protocol
from flux.backends.redis.url import Address
from flux.errors import Unavailable
from flux.lifecycle import DeadlineExceeded, insulated, within

STEP_WITHIN = 2.0
"""Seconds that a server may take to be connected to, and to answer in each of the steps."""


class Server(NamedTuple):
    """What Redis says of itself; a field is empty where our user may not know.

    :ivar run: differs after every start of the server.
    :ivar policy: what it does when it is full (``maxmemory-policy``).
    """

    run: str = ""
    role: str = ""
    version: str = ""
    policy: str = ""


class Dialer:
    """Connects to the server of a URL.

    :param ca: a file with the certificates of those who may sign the server's; None: those the system trusts.
    """

    log = Logger()

    def __init__(self, address: Address, ca: Path | None, reactor: Any) -> None:
        self.address = address
        self._ca = ca
        self._reactor = reactor
        self._warned = False

    async def connect(self) -> tuple[Connection, Server]:
        """All steps.

        :raises flux.errors.Unavailable: says which failed, and why.
        """
        connection = await self.open(*await self.find())
        try:
            await self.sign_in(connection)
            return connection, await self.examine(connection)
        except BaseException:
            connection.close("it was not what it should be")
            raise

    async def find(self) -> tuple[str, int]:
        """Where the primary is.

        :raises flux.errors.Unavailable: no Sentinel knows.
        """
        if not self.address.service:
            return self.address.hosts[0]
        problems = []
        for host, port in self.address.hosts:
            try:
                return await self._ask_sentinel(host, port)
            except Unavailable as problem:
                problems.append(problem.detail.removeprefix("state.url: "))
        raise Unavailable("state.url: " + "; ".join(problems))

    async def _ask_sentinel(self, host: str, port: int) -> tuple[str, int]:
        sentinel = await self.open(host, port)
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.address.service)
        try:
            try:
                answer = await self._answer(sentinel, *question)
            except Refused as refused:
                if refused.kind != "NOAUTH" or not self.address.password:
                    raise
                sentinel = await self.open(host, port)
                await self._authenticate(sentinel)
                answer = await self._answer(sentinel, *question)
        finally:
            sentinel.close("it was only asked")
        if answer is None:
            where, service = HostPort(host, port), self.address.service
            raise Unavailable(f"state.url: the Sentinel at {where} knows no service {service!r}")
        return answer[0].decode(), int(answer[1])

    async def open(self, host: str, port: int) -> Connection:
        """Connect.

        :raises flux.errors.Unavailable: nobody listens there.
        """
        where = str(HostPort(host, port))
        factory = Factory.forProtocol(make_protocol)
        factory.noisy = False
        endpoint: IStreamClientEndpoint = HostnameEndpoint(self._reactor, host, port, timeout=STEP_WITHIN)
        if self.address.tls:
            endpoint = wrapClientTLS(self._tls(host), endpoint)
        try:
            connecting = insulated(endpoint.connect(factory))
            protocol: Any = await within(STEP_WITHIN + 1.0, connecting, self._reactor, "connecting")
        except CancelledError:
            raise
        except Exception as error:
            reason = str(error).rstrip(".") or type(error).__name__
            raise Unavailable(f"state.url: no connection to Redis at {where}: {reason}") from error
        # TLS connections are wrapped.
        return Connection(protocol, where, self._reactor)

    def _tls(self, host: str) -> Any:
        from twisted.internet import ssl

        if self._ca is None:
            return ssl.optionsForClientTLS(host)
        try:
            blocks = self._ca.read_bytes().split(b"-----BEGIN CERTIFICATE-----")[1:]
            trusted = [ssl.Certificate.loadPEM(b"-----BEGIN CERTIFICATE-----" + block) for block in blocks]
        except Exception as error:
            raise Unavailable(f"state.ca: {self._ca}: {error}") from error
        if not trusted:
            raise Unavailable(f"state.ca: {self._ca}: there is no certificate in it")
        return ssl.optionsForClientTLS(host, trustRoot=ssl.trustRootFromCertificates(trusted))

    async def sign_in(self, connection: Connection) -> None:
        """Be let in, and choose the database.

        :raises flux.errors.Unavailable: the password is wrong, or there is no such database.
        """
        if self.address.password:
            await self._authenticate(connection)
        if self.address.database:
            await self._answer(connection, "SELECT", self.address.database)

    async def _authenticate(self, connection: Connection) -> None:
        user = (self.address.username,) if self.address.username else ()
        await self._answer(connection, "AUTH", *user, self.address.password)

    async def examine(self, connection: Connection) -> Server:
        """Ask the server what it is.

        :raises flux.errors.Unavailable: not a primary, or not ready.
        """
        try:
            text = (await self._answer(connection, "INFO")).decode()
        except Refused as refused:
            if refused.kind != "NOPERM":
                raise
            # It can be used all the same; a replica then shows with the first write.
            await self._answer(connection, "PING")
            return Server()
        info = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        server = Server(
            info.get("run_id", ""),
            info.get("role", ""),
            info.get("redis_version", ""),
            info.get("maxmemory_policy", ""),
        )
        if server.role == "slave":
            primary = f"{info.get('master_host')}:{info.get('master_port')}"
            raise Unavailable(
                f"state.url: Redis at {connection.where} is a replica, which only reads; name its primary ({primary})"
            )
        if info.get("loading", "0") != "0":
            raise Unavailable(
                f"state.url: Redis at {connection.where} is still loading its data; it serves in a moment"
            )
        return server

    async def _answer(self, connection: Connection, *command: str | bytes | int) -> Any:
        # With the first command it shows whether both mean the same by TLS. A server without it does not answer, for it
        # waits for the rest of what it takes for a command; one with it complains in its own protocol, or closes.
        first = connection.silent
        try:
            return await within(STEP_WITHIN, connection.command(*command), self._reactor, "answering")
        except DeadlineExceeded:
            hint = "; perhaps it wants no TLS (redis, not rediss)" if first and self.address.tls else ""
            raise Unavailable(
                f"state.url: Redis at {connection.where}: no answer within {STEP_WITHIN:g} s{hint}"
            ) from None
        except Refused as refused:
            raise _with_setting(refused) from None
        except Unavailable as problem:
            hint = "; perhaps it wants TLS (rediss, not redis)" if first and not self.address.tls else ""
            raise Unavailable(f"state.url: {problem.detail}{hint}") from None


def _with_setting(refused: Refused) -> Refused:
    refused.detail = f"state.url: {refused.detail}"
    return refused
