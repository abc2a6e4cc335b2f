"""Certificates and keys as they lie in files: what is read, and what is wrong with them."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from certificates import Authority
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from OpenSSL import SSL

from flux.config import ConfigError, load, with_identity
from flux.tls.identity import read_identity
from flux.tls.server import describe, server_options


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def mistake(certificate: Path | str, key: Path | str = "") -> str:
    """What is told of a configuration that names these files."""
    with pytest.raises(ConfigError) as refused:
        with_identity(load(None, [f"tls.certificate={certificate}", f"tls.key={key}"]))
    [one] = refused.value.mistakes
    return str(one)


def test_a_certificate_its_chain_and_its_key(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("chat.example.net", days=20.5)
    certificate.write_bytes(certificate.read_bytes() + authority.path.read_bytes())
    identity = read_identity(certificate, key)
    assert (identity.names, len(identity.chain)) == (("chat.example.net",), 2)
    assert 20.4 < identity.days_left(time.time()) < 20.5
    assert describe(identity, time.time()).startswith("for chat.example.net and expires in 20 days, on 20")
    assert "PRIVATE" not in repr(identity)
    both = tmp_path / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    assert read_identity(both, None) == identity
    assert read_identity(certificate, key.read_text()) == identity


def test_the_key_itself_may_come_from_the_environment(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = authority.issue("chat.example.net")
    monkeypatch.setenv("FLUX_KEY", key.read_text())
    settings = load(None, [f"tls.certificate={certificate}", "tls.key=env:FLUX_KEY"])
    assert "PRIVATE" not in repr(settings)
    assert with_identity(settings).identity is not None
    assert load(None, [f"tls.certificate={certificate}", f"tls.key=file:{key}"]).tls.key == key


def test_what_is_wrong_is_said_with_the_key_and_the_file(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("chat.example.net")
    gone, empty = tmp_path / "gone", tmp_path / "empty"
    empty.touch()
    assert mistake(gone, key) == f"tls.certificate: {gone} cannot be read: No such file or directory"
    assert mistake(certificate, gone) == f"tls.key: {gone} cannot be read: No such file or directory"
    assert mistake(tmp_path, key) == f"tls.certificate: {tmp_path} cannot be read: Is a directory"
    assert mistake(empty, key) == f"tls.certificate: {empty} holds no certificate (PEM), or a broken one"
    assert mistake(certificate, empty) == f"tls.key: {empty} holds no private key (PEM) that can be used"
    assert mistake(certificate) == f"tls.key: {certificate} holds no private key (PEM) that can be used"
    _, other = authority.issue("other.example.net")
    wrong = f"tls.key: {other} does not belong to the certificate in {certificate}: they are not of one pair"
    assert mistake(certificate, other) == wrong
    backwards = tmp_path / "backwards.pem"
    backwards.write_bytes(authority.path.read_bytes() + certificate.read_bytes())
    assert mistake(backwards, key).endswith(": the server's own certificate has to be the first")
    secret = tmp_path / "secret.key"
    loaded = load_pem_private_key(key.read_bytes(), None)
    secret.write_bytes(
        loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"correct horse"))
    )
    assert mistake(certificate, secret).startswith(f"tls.key: {secret} is encrypted; expected a key without")


def test_one_that_is_not_valid_now_is_taken_and_described(authority: Authority) -> None:
    certificate, key = authority.issue("chat.example.net", days=20)
    identity, now = read_identity(certificate, key), time.time()
    assert identity.invalid(now) == ""
    assert describe(identity, now - 11 * 86400).startswith("for chat.example.net and is not valid before 20")
    assert describe(identity, now + 21 * 86400).startswith(
        "for chat.example.net and has expired: it was valid until 20"
    )
    expired = read_identity(*authority.issue("old.example.net", days=-1))
    assert expired.invalid(now).startswith("has expired: it was valid until 20")


def test_a_key_that_openssl_takes_for_too_weak(authority: Authority) -> None:
    weak = rsa.generate_private_key(65537, 1024)
    certificate, key = authority.issue("weak.example.net", key=weak)
    assert mistake(certificate, key) == "tls.certificate: OpenSSL does not take it: ee key too small"


def together(authority: Authority) -> Path:
    """A file with certificate and key."""
    certificate, key = authority.issue("chat.example.net")
    certificate.write_bytes(certificate.read_bytes() + key.read_bytes())
    return certificate


def test_what_is_wrong_in_the_configuration(authority: Authority) -> None:
    with pytest.raises(ConfigError, match=r"tls\.certificate: is missing, and tls\.key needs it: the path of a file"):
        load(None, ["tls.key=/etc/flux/tls.key"])
    with pytest.raises(
        ConfigError, match=r'tls\.listeners: "web" is unknown.*; expected some of chat, websocket, gate'
    ):
        load(None, ["tls.listeners=chat, web"])
    with pytest.raises(ConfigError, match=r'tls\.listeners: "chat" stands there twice'):
        load(None, ["tls.listeners=chat, chat"])
    within = ["tls.certificate=/etc/flux/tls.pem", f"gate.listen=ssl:8443:privateKey={together(authority)}"]
    with pytest.raises(
        ConfigError, match=r"gate\.listen: brings TLS of its own; expected tcp:, or tls\.listeners with"
    ):
        load(None, within)
    assert load(None, [*within, "tls.listeners=chat"]).secure("gate")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([], False),
        (["tls.certificate=/a"], True),
        (["tls.certificate=/a", "tls.listeners=gate"], False),
        (["tls.certificate=/a", "chat.advertise_tls=no"], False),
        (["chat.advertise_tls=yes"], True),
        (["chat.listen=ssl:8090:privateKey={}"], True),
        (["chat.listen=haproxy:ssl:8090:privateKey={}"], True),
    ],
)
def test_whether_clients_are_told_to_begin_with_tls(authority: Authority, changes: list[str], told: bool) -> None:
    assert load(None, [change.format(together(authority)) for change in changes]).advertise_tls is told


def test_other_contents_of_the_same_files_are_a_change(authority: Authority) -> None:
    certificate, key = authority.issue("chat.example.net")
    options = [f"tls.certificate={certificate}", f"tls.key={key}"]
    before = with_identity(load(None, options))
    assert before.difference(with_identity(load(None, options))) == ((), ())
    authority.issue("chat.example.net")
    after = with_identity(load(None, [*options, "tls.warn_days=3"]))
    assert before.difference(after) == (("tls.warn_days", "tls.certificate"), ())
    went_on = before.with_live(after)
    assert (went_on.identity, went_on.tls.warn_days) == (after.identity, 3)
    # From none to one, and back: what listens already does not change.
    none = load()
    assert none.difference(after) == ((), ("tls.certificate", "tls.key", "tls.warn_days"))
    assert (none.with_live(after).identity, none.with_live(after).tls) == (None, none.tls)
    assert after.with_live(none).identity == after.identity


@pytest.mark.parametrize(("version", "taken"), [(SSL.TLS1_1_VERSION, False), (SSL.TLS1_2_VERSION, True)])
def test_tls_1_2_is_the_least(authority: Authority, version: int, taken: bool) -> None:
    identity = read_identity(*authority.issue("chat.example.net"))
    server = SSL.Connection(server_options(identity).getContext(), None)
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    context.set_max_proto_version(version)
    client = SSL.Connection(context, None)
    server.set_accept_state()
    client.set_connect_state()

    def shake() -> bool:
        for _ in range(10):
            done = 0
            for one, other in ((client, server), (server, client)):
                try:
                    one.do_handshake()
                    done += 1
                except SSL.WantReadError:
                    pass
                with contextlib.suppress(SSL.WantReadError):
                    other.bio_write(one.bio_read(65536))
            if done == 2:
                return True
        return False

    if taken:
        assert shake()
        assert client.get_protocol_version_name() == "TLSv1.2"
        assert "GCM" in str(client.get_cipher_name()) or "CHACHA" in str(client.get_cipher_name())
    else:
        with pytest.raises(SSL.Error):
            shake()
