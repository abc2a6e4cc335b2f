"""What an admin can do: see who is here, end sessions, set passwords, take servers out of service, reload."""

from __future__ import annotations

import msgspec
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from flux.admin.sources import Sources
from flux.ending import Became, end_session
from flux.errors import BadRequest, FluxError, NotFound, Unavailable, UserInvalid
from flux.interfaces import IStore
from flux.model.events import KickReason
from flux.model.placement import Node
from flux.model.sessions import SessionSeen
from flux.names import fold


class Ending(msgspec.Struct, frozen=True):
    """What became of an account's session: see :class:`flux.ending.Ended`."""

    id: int
    name: str
    session: Became
    token: bool
    problem: str = ""


class User(msgspec.Struct, frozen=True):
    """An account, and on which server it is; empty where it is offline, None where nobody knows."""

    id: int
    name: str
    nick: str
    server: str | None


class Reloaded(msgspec.Struct, frozen=True):
    """What reading the configuration again has changed, and what would need a restart."""

    changed: tuple[str, ...]
    restart: tuple[str, ...]


class Actions:
    """Each says in the log who has asked for it."""

    log = Logger()

    def __init__(self, sources: Sources, clock: IReactorTime) -> None:
        self._sources = sources
        self._clock = clock

    def _store(self) -> IStore:
        if self._sources.store is None:
            raise NotFound(
                "no accounts are kept in this process; ask the admin address of a `twistd flux` or `twistd flux-chat`"
            )
        return self._sources.store

    def sessions(self, query: str, limit: int) -> list[SessionSeen]:
        """The sessions on this process' chat server.

        :raises flux.errors.NotFound: it has none.
        """
        if self._sources.sessions is None:
            raise NotFound("there is no chat server in this process; ask the admin address of one")
        return self._sources.sessions(query, limit)

    async def users(self, query: str, limit: int) -> list[User]:
        """Accounts whose name begins with ``query`` or whose id it is."""
        found = await self._store().search(query, limit)
        try:
            routes = await self._sources.state.routes([profile.id for profile in found])
        except Unavailable:
            return [User(profile.id, profile.name, profile.nick, None) for profile in found]
        servers = {uid: route.node for uid, route in routes.items()}
        return [User(each.id, each.name, each.nick, servers.get(each.id, "")) for each in found]

    async def find(self, user: int | str) -> tuple[int, str]:
        """Id and name of the account with this id or name.

        :raises flux.errors.UserInvalid: there is none.
        """
        if isinstance(user, int):
            profile = await self._store().profile(user)
            return profile.id, profile.name
        # Accounts are found by id as well, and whoever has this name exactly is the first by name.
        for profile in await self._store().search(user, 2):
            if fold(profile.name) == fold(user):
                return profile.id, profile.name
        raise UserInvalid(f"there is no user called {user!r}")

    async def kick(self, user: int | str, by: str) -> Ending:
        """End an account's session, wherever it is, and revoke its token."""
        uid, name = await self.find(user)
        self.log.info("{by}: user {uid} is kicked", by=by, uid=uid)
        return await self.end(uid, name, "admin")

    async def set_password(self, user: int | str, password: str, by: str) -> Ending:
        """Set an account's password, end its session and revoke its token.

        :raises flux.errors.PasswordInvalid: it breaks the rules for new passwords.
        """
        uid, name = await self.find(user)
        if self._sources.hash_password is None:
            raise NotFound("passwords cannot be set in this process; ask the admin address of one with a chat server")
        await self._store().set_password(uid, await self._sources.hash_password(password))
        self.log.info("{by}: the password of user {uid} was set", by=by, uid=uid)
        return await self.end(uid, name, "password")

    async def end(self, uid: int, name: str, reason: KickReason, detail: str = "") -> Ending:
        """End an account's session, wherever it is, and revoke its token; ``detail`` is what its client shows."""
        sources = self._sources
        ended = await end_session(self._store(), sources.state, sources.bus, self._clock, uid, reason, detail)
        if ended.problem:
            self.log.warn("ending the session of user {uid}: {problem}", uid=uid, problem=ended.problem)
        return Ending(uid, name, ended.session, ended.token, ended.problem)

    async def drain(self, server: str, draining: bool, by: str) -> Node:
        """Take a chat server out of service, or put it back."""
        if not server:
            raise BadRequest("server: missing")
        about = {"by": by, "what": "drain" if draining else "resume", "server": server}
        try:
            node = await self._sources.directory.drain(server, draining)
        except FluxError as error:
            self.log.warn("{by}: {what} of {server} is not done: {error}", error=error, **about)
            raise
        self.log.info("{by}: {what} of {server}: it is {state}", state=node.state, **about)
        return node

    async def reload(self, by: str) -> Reloaded:
        """Read the configuration again.

        :raises flux.config.ConfigError: it has mistakes, and nothing has changed.
        """
        return Reloaded(*await self._sources.reread(by))
