"""A certificate with its chain and key, as they lie in files: read, and checked before anybody relies on them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

DAY = 86400.0


class BadIdentity(Exception):
    """A certificate and key that cannot be used.

    :ivar part: which of the two is to blame: ``certificate`` or ``key``.
    """

    def __init__(self, part: str, what: str) -> None:
        super().__init__(what)
        self.part = part


@dataclass(frozen=True)
class Identity:
    """Who a server says it is, and the key that proves it.

    :ivar chain: its certificate, and those that lead from there to a root.
    :ivar names: whom the certificate is for: host names and addresses.
    :ivar begins: when it becomes valid, in seconds since the epoch.
    :ivar ends: when it expires.
    """

    chain: tuple[x509.Certificate, ...]
    key: PrivateKeyTypes = field(repr=False, compare=False)
    names: tuple[str, ...]
    begins: float
    ends: float

    def days_left(self, now: float) -> float:
        """Days until it expires; negative afterwards."""
        return (self.ends - now) / DAY

    def invalid(self, now: float) -> str:
        """Why clients refuse it at the moment ``now``, because of the date; empty if they do not."""
        if self.ends <= now:
            return f"has expired: it was valid until {date(self.ends)}"
        return f"is not valid before {date(self.begins)}" if self.begins > now else ""


def read_chain(path: Path) -> tuple[x509.Certificate, ...]:
    """The certificates in a PEM file, in their order.

    :raises BadIdentity: it cannot be read, or there is none in it.
    """
    data = _read("certificate", path)
    try:
        return tuple(x509.load_pem_x509_certificates(data))
    except ValueError:
        raise BadIdentity("certificate", f"{path} holds no certificate (PEM), or a broken one") from None


def read_identity(certificate: Path, key: Path | str | None) -> Identity:
    """The identity in two files, or in one; it may have expired.

    :param key: a file, or the key itself (PEM), or None: it is in the file of the certificate.
    :raises BadIdentity: says what is wrong with which of the two.
    """
    chain = read_chain(certificate)
    where = "the secret" if isinstance(key, str) else str(key or certificate)
    data = key.encode() if isinstance(key, str) else _read("key", key or certificate)
    secret = _load_key(data, where)
    own = chain[0]
    if _public(own) != secret.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        why = "the server's own certificate has to be the first" if len(chain) > 1 else "they are not of one pair"
        raise BadIdentity("key", f"{where} does not belong to the certificate in {certificate}: {why}")
    begins, ends = own.not_valid_before_utc, own.not_valid_after_utc
    return Identity(chain, secret, names_of(own), begins.timestamp(), ends.timestamp())


def _read(part: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadIdentity(part, f"{path} cannot be read: {os.strerror(error.errno or 0)}") from None


def _load_key(data: bytes, where: str) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(data, None)
    except TypeError:
        what = f"{where} is encrypted; expected a key without a passphrase (openssl pkey -in FILE -out FILE)"
        raise BadIdentity("key", what) from None
    except Exception:
        # Whatever a broken or unusual key makes of it: what it says may quote the key.
        raise BadIdentity("key", f"{where} holds no private key (PEM) that can be used") from None


def _public(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Whom a certificate is for: host names and addresses."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = [str(address) for address in found.get_values_for_type(x509.IPAddress)]
    return (*found.get_values_for_type(x509.DNSName), *addresses)


def date(moment: float) -> str:
    """A moment, in seconds since the epoch, for people."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))
