"""Accounts: register, log in, log out, profile, password.

A login goes through these steps, and their order is what makes "one live session per
account" and "nothing is missed" true (each step may wait, and anything may happen
meanwhile; see ``Positions`` and ``Session numbers`` in ARCHITECTURE.md)::

    check password or token
    take the next session number      the store decides who is newest
    enter the node's table            a kick that overtakes the claim's reply finds us
    claim the route                   the higher number wins; the loser is kicked
    check token, ban, password again  who revoked them meanwhile did not see the claim
    read what is pending              after the claim: who misses us has committed before
    login.ok, then the messages
"""

from __future__ import annotations

from msgspec import UNSET

from flux.accounts.rules import check_nick
from flux.chat.dispatch import answers
from flux.chat.login_numbered import answer_login
from flux.chat.session import Session
from flux.errors import (
    AlreadyLoggedIn,
    BadRequest,
    FluxError,
    NoServer,
    Unavailable,
)
from flux.model.bus import Kick
from flux.model.chats import Cursor
from flux.model.events import Presence
from flux.model.overview import Overview
from flux.model.people import Credentials
from flux.wire import replies, requests
from flux.wire.numbered import NumberedDialect

IN_USE = "the account is in use, and this server does not let a second login take over"


@answers(requests.Register, login=False)
async def register(session: Session, request: requests.Register) -> replies.RegisterOk:
    """Create an account."""
    uid = await session.node.accounts.register(
        request.name,
        request.password,
        session.connection.address,
        session.conn,
        nick=request.nick,
        email=request.email,
        code=request.code,
        any_password=session.dialect.any_password,
    )
    return replies.RegisterOk(id=uid, name=request.name)


@answers(requests.Login, login=False)
async def login(session: Session, request: requests.Login) -> None:
    """Begin a session; the reply is written here, before the first message."""
    node = session.node
    if session.uid:
        raise AlreadyLoggedIn("this connection has a session; log out first")
    if node.draining:
        raise NoServer("this server is draining; ask for another one")
    if isinstance(request.token, str):
        uid, checked = await _check_token(session, request), None
        node.accounts.pace_token(uid, session.connection.address)
    else:
        credentials = await _check_password(session, request)
        uid, checked = credentials.id, credentials.password_hash
    try:
        await _begin(session, uid, request, checked)
    except BaseException:
        node.end(session)
        session.connection.restart()
        raise


async def _check_token(session: Session, request: requests.Login) -> int:
    if not request.id or request.name:
        raise BadRequest("id: a token goes with an id")
    if request.password is not UNSET:
        raise BadRequest("password, token: give one of them")
    await session.node.accounts.check_token(request.id, str(request.token), session.connection.address, session.conn)
    return request.id


async def _check_password(session: Session, request: requests.Login) -> Credentials:
    if bool(request.id) == bool(request.name):
        raise BadRequest("id, name: give exactly one of them")
    if not isinstance(request.password, str):
        raise BadRequest("password: missing")
    return await session.node.accounts.authenticate(
        request.password, session.connection.address, session.conn, uid=request.id, name=request.name
    )


async def _begin(session: Session, uid: int, request: requests.Login, checked: str | None) -> None:
    """Make this connection the account's one live session.

    :param checked: the hash that the password was checked against; None where there was a token instead.
    """
    node = session.node
    takeover = node.settings.chat.takeover
    _still_here(session)
    if not takeover and (uid in node.sessions or uid in node.logging_in):
        raise AlreadyLoggedIn(IN_USE)
    node.logging_in[uid] += 1
    try:
        if not takeover:
            await _reserve(session, uid)
        number = await node.store.open_session(uid)
        if _has_gone(session):
            # Perhaps to another server, where it has a session by now.
            # However long this number was on its way, it is not to supersede that.
            await node.store.return_session(uid, number)
            raise _Gone()
        session.uid, session.number = uid, number
        session.acks = request.acks and session.dialect.has_acks
        older = node.sessions.get(uid)
        if older is not None and older.number > number:
            session.kick("takeover")
            raise _Gone()
        node.sessions[uid] = session
        if older is not None:
            older.kick("takeover")
        await _claim(session, isinstance(request.token, str))
        _still_here(session)
        if checked is None:
            await _check_token(session, request)
            _still_here(session)
        overview = await node.store.overview(uid)
        _still_here(session)
        if overview.session > number:
            # Whatever the shared state says or has forgotten: there is a newer one.
            session.kick("takeover")
            raise _Gone()
        # Looked at once more, as the token was: who bans, replaces a password or revokes a token does that first and
        # then looks for the route, which is claimed.
        node.accounts.check_ban(overview.ban)
        if checked is not None:
            node.accounts.check_unchanged(checked, overview.password_hash)
        session.name = overview.profile.name
        session.blocked = frozenset(overview.blocked)
        session.has_read(overview.cursors)
        node.delivery.positions.enter(session, overview.cursors)
        session.friends = tuple(friend.id for friend in overview.friends if friend.mutual)
        online = await node.presence.online(session.friends) if session.friends else set()
        _still_here(session)
        (node.metrics.logins_by_token if isinstance(request.token, str) else node.metrics.logins_by_password).inc()
        session.log.info(
            "user {uid} logged in from {address}", uid=uid, address=session.connection.address, conn=session.conn
        )
        if isinstance(session.dialect, NumberedDialect):
            await answer_login(session, overview, online)
            _still_here(session)
            session.slow_down()
        else:
            session.reply(request, login_ok(node.name, overview, online))
        node.delivery.start(session)
        if session.friends:
            await node.presence.notify(session.friends, Presence(uid, True))
    finally:
        node.logging_in[uid] -= 1
        if not node.logging_in[uid]:
            del node.logging_in[uid]


async def _reserve(session: Session, uid: int) -> None:
    """Takeover is off: who is first stays.

    The route is claimed with the number 0 before a session number is taken, because
    who holds a lower number than the newest is superseded, and a login that is refused
    must not do that to the one that stays.
    """
    session.uid = uid
    if not (await session.node.state.claim(uid, session.route, False)).won:
        raise AlreadyLoggedIn(IN_USE)
    _still_here(session)


async def _claim(session: Session, by_token: bool) -> None:
    node = session.node
    try:
        claim = await node.state.claim(session.uid, session.route, True)
    except Unavailable:
        if by_token:
            raise
        # A password login goes on without the shared state; the heartbeat restores the route.
        node.spread.degraded = True
        return
    if not claim.won:
        session.kick("takeover")
        raise _Gone()
    previous = claim.previous
    if previous is not None and (previous.node, previous.boot) != (node.name, node.boot):
        try:
            await node.bus.publish(previous.node, previous.boot, Kick(session.uid, session.number, "takeover"))
        except FluxError as error:
            session.log.warn("the older session ends with a sweep: {error}", error=error, conn=session.conn)


class _Gone(FluxError):
    """The connection ended while its login was under way: there is nobody to answer."""


def _still_here(session: Session) -> None:
    if _has_gone(session):
        raise _Gone()


def _has_gone(session: Session) -> bool:
    return session.ended or session.connection.closed


def login_ok(server: str, overview: Overview, online: set[int]) -> replies.LoginOk:
    """Everything a client shows first."""
    profile = overview.profile
    return replies.LoginOk(
        server=server,
        id=profile.id,
        name=profile.name,
        nick=profile.nick,
        description=profile.description,
        sex=profile.sex,
        icon=profile.icon,
        friends=[
            replies.FriendView(friend.id, friend.name, friend.nick, friend.remark, friend.id in online)
            for friend in overview.friends
        ],
        friend_requests=list(overview.requests),
        groups=list(overview.groups),
        unread=[_unread(cursor) for cursor in overview.cursors if cursor.unread],
    )


def _unread(cursor: Cursor) -> replies.Unread:
    return replies.Unread(
        chat=cursor.chat,
        to=cursor.peer or UNSET,
        group=UNSET if cursor.peer else cursor.chat,
        count=cursor.unread,
        head=cursor.head,
    )


@answers(requests.Logout, counts=False)
async def logout(session: Session, request: requests.Logout) -> None:
    """End the session and revoke its token; in the numbered dialect the connection stays."""
    try:
        await session.node.state.revoke(session.uid)
    except Unavailable as error:
        session.log.warn("the token of {uid} lives until it expires: {error}", uid=session.uid, error=error)
    _still_here(session)
    if not session.acks and session.connection.drained():
        session.confirm()
    session.log.info("user {uid} logged out", uid=session.uid, conn=session.conn)
    session.node.end(session)
    if isinstance(session.dialect, NumberedDialect):
        session.connection.restart()
        session.connection.look_for_ban()
    else:
        session.reply(request, replies.LogoutOk())
        session.connection.close()


@answers(requests.ProfileGet, counts=False)
async def profile_get(session: Session, request: requests.ProfileGet) -> replies.ProfileGetOk:
    """Anybody's public profile."""
    profile = await session.node.store.profile(request.id or session.uid)
    return replies.ProfileGetOk(
        id=profile.id, name=profile.name, nick=profile.nick,
        description=profile.description, sex=profile.sex, icon=profile.icon,
    )  # fmt: skip


@answers(requests.ProfileSet)
async def profile_set(session: Session, request: requests.ProfileSet) -> replies.ProfileSetOk:
    """Change one's own profile."""
    if isinstance(request.nick, str):
        check_nick(request.nick)
    profile = await session.node.store.set_profile(
        session.uid,
        None if request.nick is UNSET else str(request.nick),
        None if request.description is UNSET else str(request.description),
        None if request.sex is UNSET else str(request.sex),
        None if request.icon is UNSET else str(request.icon),
    )
    return replies.ProfileSetOk(
        id=profile.id, name=profile.name, nick=profile.nick,
        description=profile.description, sex=profile.sex, icon=profile.icon,
    )  # fmt: skip


@answers(requests.UserSearch)
async def user_search(session: Session, request: requests.UserSearch) -> replies.UserSearchOk:
    """Find accounts by id or by the beginning of the name."""
    found = await session.node.store.search(request.query, min(request.limit, 100))
    views = [replies.ProfileView(p.id, p.name, p.nick, p.description, p.sex, p.icon) for p in found]
    return replies.UserSearchOk(users=views)


@answers(requests.PasswordChange)
async def password_change(session: Session, request: requests.PasswordChange) -> replies.PasswordChangeOk:
    """Change the password and revoke the token; this session stays."""
    await session.node.accounts.change_password(
        session.uid, request.old, request.new, session.connection.address, session.conn
    )
    return replies.PasswordChangeOk()
