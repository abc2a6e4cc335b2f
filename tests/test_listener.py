"""Ports that somebody else has opened: taken over with all that the setting says, and shared with others."""

from __future__ import annotations

import datetime
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.python import lockfile

from flux.lifecycle import CannotStart, sleep, within
from flux.net.listener import Listener
from flux.workers import handover
from flux.workers.handover import SharedPort


class Greeter(Protocol):
    """Says who it is, and whom it hears, when it hears something."""

    def __init__(self, name: str) -> None:
        self.name = name

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(f"{self.name} hears {self.transport.getPeer().host}\n".encode())


class Listening(Protocol):
    """Waits for a line."""

    def __init__(self) -> None:
        self.line: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.line.callback(data)

    def connectionLost(self, reason: Any = None) -> None:
        if not self.line.called:
            self.line.errback(reason)


def greeter(name: str) -> Factory:
    factory = Factory.forProtocol(lambda: Greeter(name))
    factory.noisy = False
    return factory


@pytest.fixture
def handed_over() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:
        yield listening


@pytest_twisted.async_yield_fixture
async def ports():
    ports: list[Listener] = []
    yield ports
    for port in ports:
        await port.stop()


async def ask(listening: socket.socket, words: bytes = b"\n", tls: Any = None) -> str:
    """What is said on a new connection; it is closed then."""
    from twisted.internet import reactor

    endpoint: Any = TCP4ClientEndpoint(reactor, *listening.getsockname())
    if tls is not None:
        endpoint = wrapClientTLS(tls, endpoint)
    client = await connectProtocol(endpoint, Listening())
    client.transport.write(words)
    line: bytes = await within(10, client.line, reactor, "an answer")
    client.transport.abortConnection()
    return line.decode().rstrip()


def listener(description: str, inherited: int, name: str = "somebody") -> Listener:
    from twisted.internet import reactor

    return Listener("chat.listen", description, greeter(name), reactor, inherited)


def on_a_path(path: Path) -> Listener:
    from twisted.internet import reactor

    return Listener("chat.listen", f"unix:{path}", greeter("somebody"), reactor)


async def test_a_socket_whose_lock_is_left_over_from_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "flux"
    lock = tmp_path / "flux.lock"
    # The number of the process that ended has been given to another one.
    lock.symlink_to(str(os.getpid()))
    with pytest.raises(CannotStart, match=rf"{lock} is of process {os.getpid()}\..* remove the file"):
        await on_a_path(path).start()

    def of_another(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(lockfile, "kill", of_another)
    with pytest.raises(CannotStart, match=r"\.lock is of another user's process\..* remove the file"):
        await on_a_path(path).start()
    lock.unlink()
    port = on_a_path(path)
    await port.start()
    await port.stop()


async def test_a_port_that_was_handed_over(handed_over: socket.socket, ports: list[Listener]) -> None:
    descriptor = os.dup(handed_over.fileno())
    ports.append(port := listener("tcp:1:interface=203.0.113.1:backlog=7", descriptor))
    await port.start()
    # It has a descriptor of its own, and what it was given is closed.
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert port.address() == handed_over.getsockname()
    assert await ask(handed_over) == "somebody hears 127.0.0.1"
    await port.stop()
    socket.create_connection(handed_over.getsockname()).close()


async def test_what_the_setting_says_about_proxies_holds(handed_over: socket.socket, ports: list[Listener]) -> None:
    ports.append(port := listener("haproxy:tcp:1", os.dup(handed_over.fileno())))
    await port.start()
    assert await ask(handed_over, b"PROXY TCP4 203.0.113.7 127.0.0.1 1 2\r\nx") == "somebody hears 203.0.113.7"


# Twisted's own client does.
@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
async def test_what_the_setting_says_about_tls_holds(
    handed_over: socket.socket, ports: list[Listener], tmp_path: Path
) -> None:
    certificate = make_certificate(tmp_path / "server.pem")
    ports.append(port := listener(f"ssl:1:privateKey={tmp_path / 'server.pem'}", os.dup(handed_over.fileno())))
    await port.start()
    tls = optionsForClientTLS("chat.example.net", trustRoot=Certificate.loadPEM(certificate))
    assert await ask(handed_over, tls=tls) == "somebody hears 127.0.0.1"


def make_certificate(path: Path) -> bytes:
    """Write a key and its certificate for chat.example.net into one file; return the certificate."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "chat.example.net")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("chat.example.net")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    written = certificate.public_bytes(serialization.Encoding.PEM)
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(pem + written)
    return written


async def test_a_port_that_is_taken_is_an_error_that_names_the_setting(handed_over: socket.socket) -> None:
    from twisted.internet import reactor

    number = handed_over.getsockname()[1]
    port = Listener("chat.listen", f"tcp:{number}:interface=127.0.0.1", greeter("nobody"), reactor)
    with pytest.raises(CannotStart, match=f"chat.listen = tcp:{number}.*Address already in use"):
        await port.start()


async def test_who_gives_way_has_what_nobody_else_takes(
    handed_over: socket.socket, ports: list[Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    from twisted.internet import reactor

    monkeypatch.setattr(handover, "SHARED", os.dup(handed_over.fileno()))
    shared = SharedPort("tcp:1", greeter("polite"), reactor)
    other = listener("tcp:1", os.dup(handed_over.fileno()), "quick")
    ports += [shared, other]
    await shared.start()
    await other.start()
    shared.give_way(True)
    heard = [await ask(handed_over) for _ in range(20)]
    # Only by chance does it look in the moment that another one needs.
    assert heard.count("quick hears 127.0.0.1") >= 15
    await other.stop()
    assert await ask(handed_over) == "polite hears 127.0.0.1"
    shared.give_way(False)
    assert await ask(handed_over) == "polite hears 127.0.0.1"
    shared.give_way(True)
    await sleep(2 * handover.GIVE_WAY, reactor)
