"""A complete configuration: the frozen settings that everything is made from.

::

    file, --set ── loading ──> Settings ─┬─ difference ──> what a reload changes, and what needs a restart
                                         └─ with_live ───> what a running process goes on with
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from flux.config.endpoints import is_ssl
from flux.config.sections import (
    SECTIONS,
    Admin,
    Chat,
    ChatServer,
    ChatServerNames,
    Gate,
    Limits,
    Log,
    Mail,
    State,
    Status,
    Store,
    Tls,
    keys,
)

if TYPE_CHECKING:
    from flux.tls.identity import Identity


class Difference(NamedTuple):
    """Keys that differ, as ``section.key``: those a running process takes, and those that need a restart."""

    live: tuple[str, ...]
    restart: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """A complete configuration; ``Settings()`` is the default one.

    :ivar identity: what the files of ``[tls]`` held when they were read, for whoever listens with it; see
        :func:`flux.config.with_identity`.
    """

    chat: Chat = Chat()
    status: Status = Status()
    gate: Gate = Gate()
    admin: Admin = Admin()
    store: Store = Store()
    state: State = State()
    mail: Mail = Mail()
    limits: Limits = Limits()
    tls: Tls = Tls()
    log: Log = Log()
    chatservers: tuple[ChatServer, ...] = ()
    identity: Identity | None = None

    @property
    def require_code(self) -> bool:
        """Whether registering takes a verification code."""
        wanted = self.gate.require_code
        return wanted == "yes" or (wanted == "auto" and self.sends_mail)

    @property
    def sends_mail(self) -> bool:
        """Whether e-mail reaches anybody, and not only the log."""
        return self.mail.kind != "log"

    def wraps(self, listener: str) -> bool:
        """Whether the certificate of ``[tls]`` is for this one of :data:`flux.config.sections.LISTENERS`."""
        return self.tls.certificate is not None and listener in self.tls.listeners

    def secure(self, listener: str) -> bool:
        """Whether connections to this listener begin with TLS, as far as we are concerned."""
        endpoint: str = self.chat.websocket if listener == "websocket" else getattr(self, listener).listen
        return self.wraps(listener) or is_ssl(endpoint)

    @property
    def advertise_tls(self) -> bool:
        """Whether clients are told to begin with TLS."""
        told = self.chat.advertise_tls
        return told == "yes" or (told == "auto" and self.secure("chat"))

    def _begins_or_ends_tls(self, new: Settings) -> bool:
        """Whether ``new`` has a certificate where there was none, or none any more: listeners cannot take that up."""
        return (self.tls.certificate is None) != (new.tls.certificate is None)

    def difference(self, new: Settings) -> Difference:
        """What ``new`` would change."""
        live: list[str] = []
        restart: list[str] = []
        for name, section in SECTIONS.items():
            if section is ChatServerNames:
                if self.chatservers != new.chatservers:
                    live.append(name)
                continue
            for key in keys(section).values():
                if getattr(getattr(self, name), key.name) != getattr(getattr(new, name), key.name):
                    at_once = key.live and not (section is Tls and self._begins_or_ends_tls(new))
                    (live if at_once else restart).append(f"{name}.{key.name}")
        if self.identity != new.identity and "tls.certificate" not in (*live, *restart):
            # The files are where they were, with something else in them.
            live.append("tls.certificate")
        return Difference(tuple(live), tuple(restart))

    def with_live(self, new: Settings) -> Settings:
        """These settings with the live keys of ``new``: what a running process goes on with."""
        sections = {
            name: replace(
                getattr(self, name),
                **{key.name: getattr(getattr(new, name), key.name) for key in keys(section).values() if key.live},
            )
            for name, section in SECTIONS.items()
            if section is not ChatServerNames
        }
        if self._begins_or_ends_tls(new):
            return replace(self, **{**sections, "tls": self.tls}, chatservers=new.chatservers)
        return replace(self, **sections, chatservers=new.chatservers, identity=new.identity)
