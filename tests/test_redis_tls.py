"""Redis through TLS: its certificate is checked, by whom it is signed and for which host.

What the client meets is a TLS port in front of a plain Redis, as stunnel or a cloud's
load balancer are: not every build of Redis has TLS itself.
"""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from bus_contract import Recorder, kick
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis_parts import Proxy, lease, new_prefix, parts, started, until
from twisted.internet import ssl

from flux.errors import Unavailable

#: Twisted passes to pyOpenSSL what that does not like any more.
pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")


class Authority:
    """Signs certificates.

    :ivar file: its own, for ``[state] ca``.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0))
        self.file = folder / "ca.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def certificate(self, *names: str) -> ssl.CertificateOptions:
        """What a server needs that is called so."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a server")])
        signed = self._sign(subject, key, x509.SubjectAlternativeName([_name(name) for name in names]))
        pem = signed.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return ssl.PrivateCertificate.loadPEM(pem).options()

    def _sign(self, subject: x509.Name, key: Any, extension: x509.ExtensionType) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, critical=True)
            .sign(self._key, hashes.SHA256())
        )


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ours")


def tls_in_front_of(server: Any, options: ssl.CertificateOptions) -> Proxy:
    from twisted.internet import reactor

    return Proxy(server.port, lambda factory: reactor.listenSSL(0, factory, options, interface="127.0.0.1"))


@pytest_twisted.async_yield_fixture
async def front(redis_server, authority):
    front = tls_in_front_of(redis_server, authority.certificate("127.0.0.1", "localhost"))
    yield front
    await front.stop()


async def problem(url: str, ca: Path | None) -> str:
    state, _ = parts(url, new_prefix(), ca)
    with pytest.raises(Unavailable) as caught:
        await state.start()
    return caught.value.detail


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_state_and_bus_through_tls(redis_server, authority, front, host: str) -> None:
    url = f"rediss://:{redis_server.password}@{host}:{front.port}"
    async with started(url, new_prefix(), authority.file) as (state, bus):
        await state.renew(lease(), [(uid, 1) for uid in range(1, 20_001)])
        assert len(await state.routes(range(1, 20_001))) == 20_000
        sink = Recorder()
        await bus.listen("a", 1, sink)
        await bus.publish("a", 1, kick(1))
        await until(lambda: sink.events == [kick(1)])


async def test_one_of_several_authorities_in_a_file(redis_server, authority, front, tmp_path) -> None:
    other = Authority(tmp_path, "theirs")
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(b"# two\n" + other.file.read_bytes() + authority.file.read_bytes())
    url = f"rediss://:{redis_server.password}@127.0.0.1:{front.port}"
    async with started(url, new_prefix(), bundle) as (state, _):
        assert (await state.snapshot()).nodes == ()


async def test_who_signs_is_checked(redis_server, front, tmp_path) -> None:
    url = f"rediss://:{redis_server.password}@127.0.0.1:{front.port}"
    nobody_we_trust = "its certificate is not signed by anybody we trust; state.ca names whom to trust"
    assert nobody_we_trust in await problem(url, None)
    assert nobody_we_trust in await problem(url, Authority(tmp_path, "theirs").file)


async def test_for_whom_it_is_signed_is_checked(redis_server, authority) -> None:
    front = tls_in_front_of(redis_server, authority.certificate("redis.example"))
    url = f"rediss://:{redis_server.password}@127.0.0.1:{front.port}"
    assert "its certificate is for another host" in await problem(url, authority.file)
    await front.stop()


async def test_a_port_that_speaks_no_tls_and_one_that_speaks_nothing_else(redis_server, authority, front) -> None:
    password, port = redis_server.password, redis_server.port
    assert await problem(f"rediss://:{password}@127.0.0.1:{port}", authority.file) == (
        f"state.url: Redis at 127.0.0.1:{port}: no answer within 2 s; perhaps it wants no TLS (redis, not rediss)"
    )
    refused = await problem(f"redis://:{password}@127.0.0.1:{front.port}", None)
    assert refused.startswith(f"state.url: Redis at 127.0.0.1:{front.port}: ")
    assert refused.endswith("; perhaps it wants TLS (rediss, not redis)")


async def test_files_that_are_no_certificates(redis_server, tmp_path) -> None:
    url = f"rediss://:{redis_server.password}@127.0.0.1:{redis_server.port}"
    missing, empty, broken = (tmp_path / name for name in ("missing", "empty", "broken"))
    empty.touch()
    broken.write_text("-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
    for file in (missing, empty, broken):
        assert (await problem(url, file)).startswith(f"state.ca: {file}: ")
