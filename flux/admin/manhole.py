"""A Python prompt inside a running server, over SSH, for whoever has to look at what nothing else shows.

::

    ssh -p 2222 127.0.0.1 ── public key, one of admin.manhole_keys ── Shell: assembly, node, sessions, ...

It is off unless ``admin.manhole`` says where, listens on loopback only, and knows no passwords.  What is typed runs in
the reactor's thread: while it does, the server does nothing else.

``twisted.conch``, which speaks SSH, is imported when the manhole starts: it needs packages that only the extra
``flux-messenger[manhole]`` brings along, and it chooses a reactor as soon as it is imported.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

import flux
from flux.addresses import HostPort
from flux.config import Admin
from flux.lifecycle import CannotStart
from flux.net.listener import Listener

MOST_CONNECTIONS = 10
"""Connections at once; one more is cut."""

OUTDATED = (b"ssh-rsa", b"ssh-dss")
"""Signatures over SHA-1."""

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
READABLE_BY_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Manhole:
    """Listens for SSH.

    :param namespace: what is there to look at, by name.
    """

    log = Logger()

    def __init__(self, settings: Admin, namespace: Mapping[str, Any], reactor: Any) -> None:
        self._settings = settings
        self._namespace = namespace
        self._reactor = reactor
        self._factory: Any = None
        self._listener: Listener | None = None

    async def start(self) -> None:
        """:raises flux.lifecycle.CannotStart: conch is not installed, or a file of keys is not as it should be."""
        try:
            self._factory = _factory(self._settings, self._namespace, self.log)
        except ImportError as error:
            raise CannotStart(
                f"admin.manhole: needs {error.name}: pip install 'flux-messenger[manhole]', or set no admin.manhole"
            ) from error
        self._listener = Listener("admin.manhole", self._settings.manhole, self._factory, self._reactor)
        await self._listener.start()
        self.log.warn(
            "a manhole is open to the keys in {path}: whoever has one may do anything", path=self._settings.manhole_keys
        )

    async def stop(self) -> None:
        """Take no connections any more, and cut those there are."""
        if self._listener is not None:
            await self._listener.stop()
        if self._factory is not None:
            self._factory.cut()

    def address(self) -> HostPort:
        """Where it listens."""
        assert self._listener is not None
        return self._listener.address()


def _factory(settings: Admin, namespace: Mapping[str, Any], log: Logger) -> Any:
    """What makes SSH connections.

    :raises ImportError: conch is not installed.
    :raises CannotStart: a file of keys is not as it should be.
    """
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from twisted.conch import manhole, manhole_ssh
    from twisted.conch.checkers import IAuthorizedKeysDB, SSHPublicKeyChecker, readAuthorizedKeyFile
    from twisted.conch.insults import insults
    from twisted.conch.ssh import keys, transport
    from twisted.cred.portal import Portal
    from zope.interface import implementer

    path = settings.manhole_keys
    assert path is not None

    @implementer(IAuthorizedKeysDB)
    class Authorized:
        """The keys of the file, as it is at each login."""

        def getAuthorizedKeys(self, avatarId: bytes) -> list[Any]:  # noqa: N802, N803 - conch's names
            try:
                return self.read()
            except (OSError, CannotStart) as problem:
                log.warn("nobody can use the manhole: {problem}", problem=problem)
                return []

        @staticmethod
        def read() -> list[Any]:
            assert path is not None
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & WRITABLE_BY_OTHERS:
                    raise CannotStart(f"admin.manhole_keys: {path} can be written by others than its owner: chmod go-w")
                return list(readAuthorizedKeyFile(file))

    class Checker(SSHPublicKeyChecker):
        """Says in the log who comes."""

        def requestAvatarId(self, credentials: Any) -> Any:  # noqa: N802 - conch's name
            def tell(user: Any) -> Any:
                key = keys.Key.fromString(credentials.blob).fingerprint(keys.FingerprintFormats.SHA256_BASE64)
                log.warn("somebody is in the manhole, with the key SHA256:{key}", key=key)
                return user

            return super().requestAvatarId(credentials).addCallback(tell)

    class Shell(manhole.Manhole):
        """The prompt."""

        def initializeScreen(self) -> None:  # noqa: N802 - conch's name
            self.terminal.reset()
            names = ", ".join(sorted(namespace))
            for line in (f"flux {flux.__version__}, process {os.getpid()}", f"{names}; wait(...), exit()"):
                self.terminal.write(line.encode())
                self.terminal.nextLine()
            self.terminal.write(self.ps[self.pn])
            self.setInsertMode()

        def lineReceived(self, line: bytes) -> None:
            try:
                super().lineReceived(line)
            except SystemExit:
                # Of this session, not of the server.
                self.handle_QUIT()

    class Session(manhole_ssh.TerminalSession):
        """A terminal, or without one what comes through a pipe."""

        width, height = 80, 24
        screen: Any = None

        def openShell(self, proto: Any) -> None:  # noqa: N802 - conch's name
            def make() -> Any:
                self.screen = chained()
                return self.screen

            self.chainedProtocolFactory: Any = make
            super().openShell(proto)

        def execCommand(self, proto: Any, command: bytes) -> None:  # noqa: N802 - conch's name
            proto.write(b"there is a prompt only; type, or pipe, what is to be done\r\n")
            proto.loseConnection()

        def windowChanged(self, size: Any) -> None:  # noqa: N802 - conch's name
            if self.screen is not None:
                self.screen.terminalProtocol.terminalSize(size[1], size[0])

        def eofReceived(self) -> None:  # noqa: N802 - conch's name
            if self.screen is not None:
                self.screen.terminalProtocol.handle_QUIT()

    class Transport(transport.SSHServerTransport):
        """A connection."""

        transport: Any

        def connectionMade(self) -> None:
            factory.open.add(self)
            if len(factory.open) > MOST_CONNECTIONS:
                self.transport.abortConnection()
            else:
                super().connectionMade()

        def sendExtInfo(self, extensions: Any) -> None:  # noqa: N802 - conch's name
            # Conch names the algorithms of its own key; those of clients may be others.
            known = [name for name in transport.SSHTransportBase.supportedPublicKeys if name not in OUTDATED]
            super().sendExtInfo([(b"server-sig-algs", b",".join(known))])

        def receiveError(self, reasonCode: Any, description: bytes) -> None:  # noqa: N802, N803 - conch's names
            log.info("an SSH client has given up: {why}", why=description.decode("utf-8", "replace"))

        def connectionLost(self, reason: Any = None) -> None:
            factory.open.discard(self)
            super().connectionLost(reason)

    class Factory(manhole_ssh.ConchFactory):
        """All connections."""

        protocol = Transport
        noisy = False

        def __init__(self, portal: Portal, host_key: Any) -> None:
            super().__init__(portal)
            self.open: set[Transport] = set()
            self.publicKeys = {host_key.sshType(): host_key.public()}
            self.privateKeys = {host_key.sshType(): host_key}

        def cut(self) -> None:
            for connection in list(self.open):
                connection.transport.abortConnection()

    async def result(awaitable: Awaitable[Any]) -> Any:
        return await awaitable

    def wait(awaitable: Awaitable[Any]) -> Deferred[Any]:
        """The prompt shows what a Deferred comes to, once it does."""
        return Deferred.fromCoroutine(result(awaitable))

    def leave() -> None:
        raise SystemExit

    names = {**namespace, "wait": wait, "exit": leave, "quit": leave}

    def chained() -> Any:
        return insults.ServerProtocol(Shell, names)

    try:
        if not Authorized.read():
            raise CannotStart(f"admin.manhole_keys: {path} has no public key; write one there: ssh-ed25519 AAAA...")
        host_key = keys.Key.fromFile(str(_own_key(settings.manhole_host_key, lambda: _text(ed25519, keys))))
    except OSError as error:
        raise CannotStart(f"the keys of admin.manhole: {error.filename}: {error.strerror}") from error
    except (keys.BadKeyError, keys.EncryptedKeyError) as error:
        raise CannotStart(f"admin.manhole_host_key: {settings.manhole_host_key}: {error}") from error
    realm: Any = manhole_ssh.TerminalRealm()
    realm.sessionFactory = Session
    factory = Factory(Portal(realm, [Checker(Authorized())]), host_key)
    return factory


def _text(ed25519: Any, keys: Any) -> bytes:
    """A new host key."""
    text: bytes = keys.Key(ed25519.Ed25519PrivateKey.generate()).toString("openssh", subtype="v1")
    return text


def _own_key(path: Path, make: Any) -> Path:
    """The file with the host key, which is made when missing, readable for its owner only.

    :raises CannotStart: others may read it.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{os.getpid()}")
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(make())
            # Another process may be doing the same: the first one's key is everybody's.
            with contextlib.suppress(FileExistsError):
                os.link(new, path)
        finally:
            new.unlink()
    if path.stat().st_mode & READABLE_BY_OTHERS:
        raise CannotStart(f"admin.manhole_host_key: {path} can be read by others than its owner: chmod 600")
    return path
