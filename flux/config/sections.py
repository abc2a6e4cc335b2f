"""The table of all configuration keys.

One dataclass per section of the file, one field per key: its type, its default as
written in the file, its kind, what it means, and whether it is *live*, that is,
whether a running process takes a new value on SIGHUP.  ``etc/flux.ini`` repeats
this table for people; a test keeps the two together.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from flux.addresses import HostPort
from flux.config.endpoints import AUTO_ENDPOINT, ENDPOINT, ENDPOINT_OR_NOTHING
from flux.config.kinds import (
    ADDRESS,
    ADDRESSES,
    HOST,
    HOST_OR_NOTHING,
    KEY_FILE,
    NAME,
    NAMES,
    NETWORKS,
    ORIGINS,
    PATH,
    PATH_OR_NOTHING,
    PORT,
    PREFIX,
    SENDER,
    TEXT,
    URL,
    WEBSOCKET_URL,
    YES_NO,
    Kind,
    Networks,
    choice,
    duration,
    secret,
    secret_text,
    size,
    some_of,
    whole,
)


class Key(NamedTuple):
    """What the table says of a key. ``default`` is the text in the file, None where a value must be given."""

    name: str
    kind: Kind
    default: str | None
    doc: str
    live: bool


def _key(kind: Kind, default: str | None, doc: str, *, live: bool = False) -> Any:
    about: dict[str, Any] = {"kind": kind, "default": default, "doc": doc, "live": live}
    if default is None:
        return field(metadata=about, repr=not kind.secret, kw_only=True)
    return field(default=kind.parse(default), metadata=about, repr=not kind.secret)


def keys(section: type) -> dict[str, Key]:
    """The keys of a section's dataclass by name, in order."""
    return {f.name: Key(f.name, **f.metadata) for f in fields(section) if f.metadata}


#: Processes of one server.
MOST_WORKERS = 64

#: What listens in a process.
LISTENERS = ("chat", "websocket", "gate", "status", "admin")

#: Limits for which 0 means: none.
COUNT = whole(0)


@dataclass(frozen=True, slots=True)
class Chat:
    """``[chat]``: the chat server of this process."""

    name: str = _key(NAME, "chat1", "What this server is called; no two live servers share a name.")
    listen: str = _key(ENDPOINT, "tcp:8090:interface=127.0.0.1:backlog=4096", "Where clients connect.")
    advertise: HostPort | None = _key(
        ADDRESS, "", "host:port that clients are told to connect to; empty: what it listens on."
    )
    advertise_tls: str = _key(
        choice("auto", "yes", "no"), "auto", "Whether clients begin with TLS there; auto: where listen does."
    )
    websocket: str = _key(ENDPOINT_OR_NOTHING, "", "Where browsers connect by WebSocket; empty: only through a gate.")
    websocket_url: str = _key(
        WEBSOCKET_URL, "", "The WebSocket address that browsers are told to connect to; empty: what it listens on."
    )
    origins: tuple[str, ...] = _key(
        ORIGINS,
        "",
        "Origins of the web pages that may open WebSockets; empty: pages from the same host name.",
        live=True,
    )
    capacity: int = _key(
        COUNT, "0", "Sessions up to which users are sent here; who comes by itself may log in. 0: no limit."
    )
    weight: int = _key(whole(1, 100), "1", "Its share of the users, relative to other servers.")
    workers: int = _key(
        whole(1, MOST_WORKERS),
        "1",
        "Processes that share listen; each also has a port of its own and is a server of its own, name-1, name-2, ...",
    )
    heartbeat_timeout: float = _key(
        duration("1s", "1d"), "60", "A client that has sent ping and then nothing for this long is closed.", live=True
    )
    login_timeout: float = _key(
        duration("1s", "1d"), "120", "A connection that has not logged in for this long is closed.", live=True
    )
    slow_timeout: float = _key(
        duration("1s", "1d"), "60", "A client that takes nothing of what waits for it for this long is cut.", live=True
    )
    buffer: int = _key(
        size("4k", "1g"), "262144", "Bytes that may wait for a slow client; above it, it is fed from the store later."
    )
    takeover: bool = _key(
        YES_NO, "yes", "A second login of an account closes the first; no: the second is refused.", live=True
    )
    drain: float = _key(
        duration("0s", "1h"), "10",
        "How long stopping may take to bring replies out. A drain takes twice that at most.", live=True,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Status:
    """``[status]``: which chat servers live, and which one a user gets."""

    listen: str = _key(
        ENDPOINT, "tcp:50052:interface=127.0.0.1", "Where gates and tools ask; beyond loopback only with a cluster_key."
    )
    balancer: str = _key(
        choice("least_connections", "consistent_hash", "round_robin", "power_of_two", own=True),
        "least_connections",
        "How a server is chosen for a user.",
        live=True,
    )
    token_ttl: float = _key(duration("1m", "366d"), "86400", "How long a login token may be used.", live=True)
    lease: float = _key(duration("1s", "10m"), "10", "A chat server silent for this long gets no users.")
    heartbeat: float = _key(duration("0.1s", "5m"), "3", "How often a chat server reports; at most half the lease.")
    check_interval: float = _key(
        duration("0.1s", "1h"), "5", "How often servers of the static list are tried.", live=True
    )
    check_timeout: float = _key(
        duration("0.1s", "1m"), "2", "A server of the static list that takes longer to answer is down.", live=True
    )
    cluster_key: str = _key(secret(16), "", "What the first request of a connection must show; empty: nothing.")


@dataclass(frozen=True, slots=True)
class Gate:
    """``[gate]``: the HTTP port, where people register and log in."""

    listen: str = _key(
        ENDPOINT_OR_NOTHING,
        "tcp:8080:interface=127.0.0.1:backlog=4096",
        "Where it listens; empty: `twistd flux` has no gate.",
    )
    status: tuple[HostPort, ...] = _key(
        ADDRESSES, "", "Status services to ask for chat servers; empty: the one in this process."
    )
    status_tls: bool = _key(YES_NO, "no", "Whether those status services speak TLS.")
    require_code: str = _key(
        choice("auto", "yes", "no"),
        "auto",
        "Whether registering takes a code sent by e-mail; auto: where mail.kind is not log.",
        live=True,
    )
    proxies: Networks = _key(
        NETWORKS, "", "Proxies whose X-Forwarded-For is believed, here and on chat.websocket.", live=True
    )
    chat_via_gate: str = _key(
        choice("auto", "yes", "no"),
        "auto",
        "Whether browsers reach chat servers through the gate; auto: those without a WebSocket address.",
        live=True,
    )
    proxy_header: bool = _key(
        YES_NO, "no", "Whether chat servers that are reached so expect a PROXY header (haproxy:)."
    )


@dataclass(frozen=True, slots=True)
class Admin:
    """``[admin]``: metrics, health, the dashboard, and what ``flux admin`` asks."""

    listen: str = _key(
        AUTO_ENDPOINT,
        "auto",
        "Where it listens; auto: tcp:9090:interface=127.0.0.1 for `twistd flux`, else nowhere; empty: nowhere.",
    )
    token: str = _key(
        secret(16), "", "What whoever asks must show; empty: nothing, and it stays on loopback.", live=True
    )

    manhole: str = _key(
        ENDPOINT_OR_NOTHING, "", "Where a Python prompt inside the server listens for SSH; empty: nowhere."
    )
    manhole_keys: Path | None = _key(
        PATH_OR_NOTHING, "", "The public keys of those who may use it, as in ~/.ssh/authorized_keys."
    )
    manhole_host_key: Path = _key(PATH, "flux-data/manhole_host_key", "The manhole's own key; it is made when missing.")

    def endpoint(self, all_in_one: bool) -> str:
        """Where it listens in a process that has everything, or in one of the parts; empty: nowhere."""
        if self.listen == "auto":
            return "tcp:9090:interface=127.0.0.1" if all_in_one else ""
        return self.listen


@dataclass(frozen=True, slots=True)
class Store:
    """``[store]``: what is kept, and for how long."""

    kind: str = _key(choice("sqlite", "postgres", own=True), "sqlite", "What keeps accounts and messages.")
    path: Path = _key(PATH, "flux-data/flux.db", "The SQLite file; its folder is made when missing.")
    dsn: str = _key(
        secret_text("postgresql://user:password@host/database, or nothing"),
        "",
        "Where PostgreSQL is, and who we are there.",
    )
    pool: int = _key(whole(1, 64), "4", "Connections to PostgreSQL that this process keeps.")
    require_fsync: bool = _key(YES_NO, "yes", "Refuse a PostgreSQL that does not wait for its disk.")
    keep_days: int = _key(
        COUNT, "0", "Days after which messages that have arrived everywhere are removed; 0: never.", live=True
    )


@dataclass(frozen=True, slots=True)
class State:
    """``[state]``: what servers share while they run."""

    kind: str = _key(choice("memory", "redis", own=True), "memory", "What holds leases, routes and tokens.")
    url: str = _key(
        secret_text("redis://[[user]:password@]host[:port][/database]"),
        "redis://127.0.0.1:6379/0",
        "Where Redis is; rediss:// for TLS, redis+sentinel://host:port,host:port/service/database for Sentinel "
        "(rediss+sentinel:// for TLS).",
    )
    prefix: str = _key(PREFIX, "flux:", "What all keys in Redis begin with.")
    ca: Path | None = _key(
        PATH_OR_NOTHING, "", "Certificates of those who may sign Redis' own; empty: those the system trusts."
    )


@dataclass(frozen=True, slots=True)
class Mail:
    """``[mail]``: how the gate sends e-mail."""

    kind: str = _key(choice("log", "smtp", "webhook", own=True), "log", "What sends e-mail.")
    sender: str = _key(SENDER, "", "The From address.")
    host: str = _key(HOST_OR_NOTHING, "", "The mail server.")
    port: int = _key(PORT, "587", "Its port.")
    security: str = _key(choice("starttls", "tls", "none"), "starttls", "How the connection to it is encrypted.")
    user: str = _key(TEXT, "", "The user to log in there as; empty: no login.")
    password: str = _key(secret(1), "", "The password of that user.")
    url: str = _key(URL, "", "The web service that sends.")
    secret: str = _key(secret(16), "", "What the requests to it are signed with.")
    ca: Path | None = _key(
        PATH_OR_NOTHING, "", "Certificates (PEM) that the server's must be signed by; empty: those of the system."
    )
    deadline: float = _key(duration("1s", "5m"), "20", "How long a mail may take, with all its retries.")


@dataclass(frozen=True, slots=True)
class Limits:
    """``[limits]``: how much one client may ask for."""

    max_line: int = _key(size("1k", "16m"), "131072", "Longest line taken from a client, in bytes.", live=True)
    max_errors: int = _key(COUNT, "20", "Bad lines in a row after which a client is cut.", live=True)
    connections_per_address: int = _key(COUNT, "100", "Connections from one address.", live=True)
    logins_per_minute: int = _key(COUNT, "10", "Failed logins a minute per account and address.", live=True)
    logins_per_minute_address: int = _key(COUNT, "60", "Failed logins a minute per address.", live=True)
    token_logins_per_minute: int = _key(COUNT, "30", "Logins a minute of one account.", live=True)
    codes_per_hour: int = _key(COUNT, "5", "Verification codes an hour for one e-mail address.", live=True)
    codes_per_hour_address: int = _key(COUNT, "30", "Verification codes an hour asked for from an address.", live=True)
    registrations_per_hour_address: int = _key(COUNT, "100", "Accounts registered an hour from an address.", live=True)
    ban_after: int = _key(
        COUNT, "300", "Offences of an address within ban_window after which it is banned; 0: never.", live=True
    )
    ban_window: float = _key(duration("1s", "1d"), "10m", "How long offences are counted.", live=True)
    ban_for: float = _key(duration("1s", "30d"), "10m", "How long such a ban lasts.", live=True)
    ban_exempt: Networks = _key(
        NETWORKS, "127.0.0.0/8,::1", "Addresses that are not banned for offences; nor are gate.proxies.", live=True
    )
    messages_per_second: int = _key(COUNT, "20", "Messages a second of one account, in the long run.", live=True)
    messages_burst: int = _key(whole(1), "100", "Messages an account may send at once after a pause.", live=True)
    requests_per_second: int = _key(
        COUNT, "50", "Other requests a second of one account, or of a connection that is not logged in.", live=True
    )
    groups: int = _key(COUNT, "1000", "Groups that an account may be a member of.", live=True)
    catchups: int = _key(COUNT, "64", "Sessions that are filled from the store at the same time.", live=True)
    password_min: int = _key(whole(0, 1024), "8", "Characters of a new password.", live=True)
    password_min_numbered: int = _key(whole(0, 1024), "6", "The same for the numbered dialect.", live=True)


@dataclass(frozen=True, slots=True)
class ChatServerNames:
    """``[chatservers]``: the static list of classic deployments."""

    name: tuple[str, ...] = _key(
        NAMES, "", "Names of chat servers that hold no lease; each has a section of that name.", live=True
    )


@dataclass(frozen=True, slots=True)
class ChatServer:
    """A section named in ``[chatservers]``: one server of the static list."""

    name: str
    host: str = _key(HOST, None, "Where it listens.", live=True)
    port: int = _key(PORT, None, "Where it listens.", live=True)
    capacity: int = _key(COUNT, "0", "Sessions it takes; 0: no limit.", live=True)
    weight: int = _key(whole(1, 100), "1", "Its share of the users, relative to other servers.", live=True)
    tls: bool = _key(YES_NO, "no", "Whether it speaks TLS.", live=True)


@dataclass(frozen=True, slots=True)
class Tls:
    """``[tls]``: the certificate of this process, and whose it believes."""

    certificate: Path | None = _key(
        PATH_OR_NOTHING, "", "Our certificate and those that lead to a root (PEM); empty: no TLS.", live=True
    )
    key: Path | str | None = _key(
        KEY_FILE, "", "The private key of the certificate (PEM); empty: it is in the same file.", live=True
    )
    listeners: tuple[str, ...] = _key(some_of(*LISTENERS), "chat, websocket, gate", "What has TLS with it.")
    warn_days: int = _key(
        whole(0, 365), "14", "Days before the certificate expires from which on the log warns.", live=True
    )
    ca: Path | None = _key(
        PATH_OR_NOTHING, "", "Certificates (PEM) that other servers' must be signed by; empty: those of the system."
    )


@dataclass(frozen=True, slots=True)
class Log:
    """``[log]``: what the log shows, and how."""

    format: str = _key(choice("text", "json"), "text", "text for people, json: one object a line for programs.")
    level: str = _key(
        choice("debug", "info", "warn", "error", "critical"), "info", "The least important level shown.", live=True
    )


#: The sections of the file that always exist, in the order of ``etc/flux.ini``.
SECTIONS: dict[str, type] = {
    "chat": Chat,
    "status": Status,
    "gate": Gate,
    "admin": Admin,
    "store": Store,
    "state": State,
    "mail": Mail,
    "limits": Limits,
    "chatservers": ChatServerNames,
    "tls": Tls,
    "log": Log,
}
