"""From a file and ``--set`` options to settings, or to the list of all mistakes.

::

    flux.ini ──> entries ──┐
                           ├──> one entry per key ──> values ──> Settings
    --set    ──> entries ──┘    (--set wins)

An *entry* is one key with its text and where it stands.  The lines are taken
apart here and not by ``configparser``, which stops at the first mistake it finds
and does not tell on which line a value stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from flux.config.endpoints import is_local, is_proxied, is_ssl, is_this_machine
from flux.config.kinds import MOST_NAME
from flux.config.sections import LISTENERS, SECTIONS, Admin, ChatServer, Key, Mail, keys
from flux.config.settings import Settings


class Entry(NamedTuple):
    """``text`` given for ``section.key``; ``source`` says where."""

    section: str
    key: str
    text: str
    source: str


class Mistake(NamedTuple):
    """One thing wrong: ``subject`` is ``section.key``, ``[section]`` or a file; ``source`` may be empty."""

    subject: str
    what: str
    source: str = ""

    def __str__(self) -> str:
        return f"{self.subject}: {self.what}" + (f" ({self.source})" if self.source else "")


class ConfigError(Exception):
    """The configuration is wrong; ``mistakes`` are all of them."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        count = len(self.mistakes)
        heading = "1 mistake" if count == 1 else f"{count} mistakes"
        super().__init__("\n  ".join([f"{heading} in the configuration:", *map(str, self.mistakes)]))


@dataclass(slots=True)
class _Given:
    """What was written, and what is wrong with it so far."""

    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    #: Section to where it is first mentioned.
    sections: dict[str, str] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)


def load(path: Path | str | None = None, overrides: Sequence[str] = ()) -> Settings:
    """The settings of a file and of ``SECTION.KEY=VALUE`` overrides, which win over it.

    Reads the file, and those that secrets are in: call it outside the reactor's
    thread when the reactor runs.

    :raise ConfigError: with every mistake there is.
    """
    given = _Given()
    if path is not None:
        _read_file(Path(path), given)
    for override in overrides:
        _read_override(override, given)
    settings = _settings(given)
    if given.mistakes:
        raise ConfigError(given.mistakes)
    return settings


def with_identity(settings: Settings) -> Settings:
    """The settings of a process that listens: with the certificate and the key that ``[tls]`` names.

    Reads files likewise.

    :raise ConfigError: one of them cannot be used.
    """
    tls = settings.tls
    if tls.certificate is None:
        return settings
    # A tenth of what it takes to start a command, of which few listen.
    from flux.tls.identity import BadIdentity, read_identity
    from flux.tls.server import server_options

    try:
        identity = read_identity(tls.certificate, tls.key)
        server_options(identity)
    except BadIdentity as problem:
        raise ConfigError([Mistake(f"tls.{problem.part}", str(problem))]) from None
    return replace(settings, identity=identity)


# --- what is written ---------------------------------------------------------


def _read_file(path: Path, given: _Given) -> None:
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        given.mistakes.append(Mistake(str(path), f"cannot be read: {error.strerror}"))
        return
    except UnicodeDecodeError:
        given.mistakes.append(Mistake(str(path), "cannot be read: it is not UTF-8"))
        return
    section = ""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        source = f"{path}, line {number}"
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            section = line[1:-1].strip() if line[-1] == "]" else ""
            if section:
                given.sections.setdefault(section, source)
            else:
                given.mistakes.append(Mistake(str(path), f'"{line}" is not a [section]', f"line {number}"))
            continue
        name, equals, value = line.partition("=")
        if not equals or not section:
            what = "stands outside a section" if equals else "begins a line that is neither key = value nor [section]"
            # The first word only: the rest may be a secret.
            given.mistakes.append(Mistake(str(path), f'"{name.split()[0]}" {what}', f"line {number}"))
            continue
        entry = Entry(section, name.strip().lower(), value.strip(), source)
        if first := given.entries.get(entry[:2]):
            given.mistakes.append(Mistake(f"{section}.{entry.key}", f"is given twice, first in {first.source}", source))
        else:
            given.entries[entry[:2]] = entry


def _read_override(override: str, given: _Given) -> None:
    name, equals, value = override.partition("=")
    # Names of chat servers may have dots, names of keys have none.
    section, dot, key = name.strip().rpartition(".")
    if not equals or not dot:
        given.mistakes.append(Mistake(f"--set {name}", "expected SECTION.KEY=VALUE"))
        return
    entry = Entry(section.strip(), key.strip().lower(), value.strip(), f"--set {name.strip()}")
    given.sections.setdefault(entry.section, entry.source)
    given.entries[entry[:2]] = entry


# --- what it means -----------------------------------------------------------


def _settings(given: _Given) -> Settings:
    sections: dict[str, Any] = {name: _section(name, section, given) for name, section in SECTIONS.items()}
    names: tuple[str, ...] = sections.pop("chatservers").name
    servers = [_chat_server(name, given) for name in names if name not in SECTIONS]
    _unknown(names, given)
    settings = Settings(**sections, chatservers=tuple(server for server in servers if server))
    _relations(settings, names, given)
    return settings


def _values(name: str, known: dict[str, Key], given: _Given) -> dict[str, Any]:
    """The valid values given in section ``name``."""
    values = {}
    for key in known.values():
        entry = given.entries.get((name, key.name))
        if entry is None:
            continue
        try:
            values[key.name] = key.kind.parse(entry.text)
        except ValueError as error:
            what = f"{error}; expected {key.kind.expected}"
            given.mistakes.append(Mistake(f"{name}.{key.name}", what, entry.source))
    return values


def _section(name: str, section: type, given: _Given) -> Any:
    return section(**_values(name, keys(section), given))


def _chat_server(name: str, given: _Given) -> ChatServer | None:
    known = keys(ChatServer)
    missing = [k for k in known.values() if k.default is None and (name, k.name) not in given.entries]
    for key in missing:
        listed = given.entries["chatservers", "name"].source
        what = f"is missing; expected {key.kind.expected} for the chat server named in chatservers.name"
        given.mistakes.append(Mistake(f"{name}.{key.name}", what, listed))
    before = len(given.mistakes)
    values = _values(name, known, given)
    return None if missing or len(given.mistakes) > before else ChatServer(name, **values)


def _unknown(servers: Sequence[str], given: _Given) -> None:
    """Report sections and keys that do not exist, with the nearest one that does."""
    known = {name: list(keys(section)) for name, section in SECTIONS.items()}
    known.update((name, list(keys(ChatServer))) for name in servers if name not in SECTIONS)
    for section, source in given.sections.items():
        if section not in known:
            near = get_close_matches(section.lower(), known, 1)
            there = ", ".join(f"[{name}]" for name in known)
            hint = (
                f"did you mean [{near[0]}]?"
                if near
                else f"there are {there}, and one for each name in chatservers.name"
            )
            given.mistakes.append(Mistake(f"[{section}]", f"is no section, {hint}", source))
    for section, key, _, source in given.entries.values():
        if section not in known or key in known[section]:
            continue
        near = [f"{section}.{match}" for match in get_close_matches(key, known[section], 1)]
        near += [f"{other}.{key}" for other in known if key in known[other]]
        hint = f"did you mean {near[0]}?" if near else "there are " + ", ".join(known[section])
        given.mistakes.append(Mistake(f"{section}.{key}", f"is no key, {hint}", source))


def _workers(settings: Settings, report: Callable[[str, str], None]) -> None:
    """Report what several processes cannot share."""
    chat, store, state = settings.chat, settings.store.kind, settings.state.kind
    if store == "sqlite" or state == "memory":
        report(
            "chat.workers",
            f"{chat.workers} processes need a store and a state that they can share; expected store.kind = postgres "
            f"(it is {store}) and state.kind = redis (it is {state}), or 1 worker",
        )
    kind = (chat.listen.partition(":")[2] if is_proxied(chat.listen) else chat.listen).partition(":")[0]
    if kind not in ("tcp", "tcp6", "ssl"):
        report(
            "chat.listen", f"workers share a TCP port; expected tcp:, tcp6:, ssl: or haproxy: before one, not {kind}:"
        )
    if chat.websocket:
        report("chat.websocket", "workers have no such port; expected nothing, browsers then go through the gate")
    if len(f"{chat.name}-{chat.workers}") > MOST_NAME:
        report("chat.name", f"too long for the names of workers; expected at most {MOST_NAME - 3} characters")


def _relations(settings: Settings, servers: Sequence[str], given: _Given) -> None:
    """Report values that are good alone and wrong together."""

    def report(name: str, what: str) -> None:
        section, _, key = name.partition(".")
        entry = given.entries.get((section, key))
        given.mistakes.append(Mistake(name, what, entry.source if entry else "the default"))

    def missing(name: str, needed_by: str, value: str = "", more: str = "") -> None:
        """Report that ``needed_by``, because it is ``value`` or there at all, needs ``name``."""
        if any(mistake.subject == name for mistake in given.mistakes):
            return
        section, _, key = name.partition(".")
        expected = keys(SECTIONS[section])[key].kind.expected.removesuffix(", or nothing")
        because = f"{needed_by} = {value}" if value else needed_by
        entry = given.entries.get((section, key)) or given.entries[section, needed_by.partition(".")[2]]
        given.mistakes.append(Mistake(name, f"is missing, and {because} needs it: {expected}{more}", entry.source))

    status = settings.status
    if not status.cluster_key and not is_local(status.listen) and ("status", "cluster_key") not in given.entries:
        report(
            "status.listen",
            "it hands out login tokens and would be reachable from other machines; "
            "expected interface=127.0.0.1, or a status.cluster_key",
        )
    admin = settings.admin
    open_to_all = admin.listen not in ("", "auto") and not is_local(admin.listen) and not admin.token
    if open_to_all and not any(mistake.subject == "admin.token" for mistake in given.mistakes):
        report(
            "admin.listen",
            "it ends sessions and sets passwords, and would be reachable from other machines; "
            "expected interface=127.0.0.1, or an admin.token",
        )
    _manhole(admin, report, missing)
    if settings.store.kind == "postgres" and not settings.store.dsn:
        missing("store.dsn", "store.kind", settings.store.kind)
    if status.heartbeat > status.lease / 2:
        report(
            "status.heartbeat", f"{status.heartbeat:g} s; expected at most half of status.lease ({status.lease:g} s)"
        )
    _mail(settings.mail, report, missing)
    _tls(settings, report, missing)
    if settings.chat.workers > 1:
        _workers(settings, report)
    for server in servers:
        if server in SECTIONS:
            report("chatservers.name", f'"{server}" is the name of a section of its own; expected another name')


def _tls(settings: Settings, report: Callable[[str, str], None], missing: Callable[..., None]) -> None:
    """Report a key without a certificate, and TLS within TLS."""
    if settings.tls.certificate is None and settings.tls.key is not None:
        missing("tls.certificate", "tls.key", more=", with the certificate that the key belongs to")
    for listener in LISTENERS:
        name, endpoint = f"{listener}.listen", getattr(getattr(settings, listener, None), "listen", "")
        if listener == "websocket":
            name, endpoint = "chat.websocket", settings.chat.websocket
        if settings.wraps(listener) and is_ssl(endpoint):
            report(name, f"brings TLS of its own; expected tcp:, or tls.listeners without {listener}")


def _manhole(admin: Admin, report: Callable[[str, str], None], missing: Callable[..., None]) -> None:
    """Report a manhole that others could try, or nobody could use."""
    if not admin.manhole:
        return
    if not is_local(admin.manhole):
        report(
            "admin.manhole",
            "whoever gets in may do anything, and it would be reachable from other machines; expected "
            "interface=127.0.0.1 (ssh -J HOST leads there from elsewhere)",
        )
    if admin.manhole_keys is None:
        missing("admin.manhole_keys", "admin.manhole", more=", with the public keys of those who may use it")


def _mail(mail: Mail, report: Callable[[str, str], None], missing: Callable[..., None]) -> None:
    """Report what is missing to send mail with, or would send codes and passwords for everybody to read."""
    needed = {"smtp": ("host", "sender"), "webhook": ("url", "secret")}.get(mail.kind, ())
    for key in needed:
        if not getattr(mail, key):
            missing(f"mail.{key}", "mail.kind", mail.kind)
    if mail.kind == "smtp" and mail.user and mail.security == "none" and not is_this_machine(mail.host):
        report("mail.security", "the password would be sent unencrypted; expected starttls or tls")
    if mail.kind == "webhook" and mail.url.startswith("http:") and not is_this_machine(urlsplit(mail.url).hostname):
        report("mail.url", "the codes would be sent unencrypted; expected https://, or http:// to this machine")
