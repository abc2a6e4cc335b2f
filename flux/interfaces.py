"""The contracts between the parts, and everything an implementation promises.

    IStore     the record: durable, the only truth about messages
    IState     shared and forgettable: leases, routes, reservations, tokens, counters
    IBus       hints between nodes: fast, lossy
    IBalancer  which server a user gets: pure
    IPlacement the status service, as other services see it
    IMailer    e-mail

Methods that wait are annotated ``Awaitable``: a coroutine and a Deferred both
satisfy it.  Every one of them may raise :class:`flux.errors.Unavailable`, and does
so within the implementation's deadline: none waits for ever.  The suites in
``tests/*_contract.py`` hold the same promises as tests; a new implementation
runs them unchanged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence

from zope.interface import Attribute, Interface

from flux.errors import FluxError
from flux.model.bus import Addressed, BusEvent
from flux.model.chats import CursorMove, Group, Member, MemberChange, Membership, Role
from flux.model.messages import Conversation, Draft, Message, Page, Receipt
from flux.model.overview import Changes, Overview
from flux.model.people import Ban, CodeCheck, Credentials, Friend, FriendRequest, FriendStatus, Profile
from flux.model.placement import Assignment, Choice, Lease, Node, Renewal, Snapshot
from flux.model.sessions import Claim, Route


class IStore(Interface):
    """Accounts, friends, chats and messages, durably.

    A call that returned has been committed.  A call that raised ``Unavailable`` may
    or may not have been; every other error means that nothing changed.  Identifiers
    of accounts and groups are given by the store, ascending from 1.
    """

    past = Attribute(
        "Names the past it has: another one after it has gone back to an earlier state, or has become another database "
        "(a failover that lost its tail, a restored backup), and empty from then on until `changes` has told of that. "
        "What was committed in one past says nothing of the order in another."
    )

    def start() -> Awaitable[None]:
        """Open, migrate (each migration once, in order), refuse a newer or half-migrated schema.

        :raises flux.errors.Unavailable: with a sentence for the admin: what is wrong, which setting.
        """

    def stop() -> Awaitable[None]:
        """Finish what was accepted, then close."""

    def next_boot(node: str) -> Awaitable[int]:
        """The next boot number of ``node``: 1, 2, ... ascending for ever."""

    # accounts

    def create_account(
        name: str, key: str, password_hash: str, nick: str, email: str, icon: str = "", verified: str = ""
    ) -> Awaitable[int]:
        """Create an account and return its id.

        :param key: the name after NFKC and case folding; unique.
        :param email: the address as it was given, may be empty; never unique.
        :param verified: the same folded, if its owner has proved it, else empty; unique.
        :raises flux.errors.UserExists: the key or the verified address is taken.
        """

    def credentials(uid: int, key: str, verified: str = "") -> Awaitable[Credentials | None]:
        """By ``uid``; if that is 0 by folded name; if that is empty by folded verified address. None: no such account.

        An address that was not verified leads to nobody.
        """

    def set_password(uid: int, password_hash: str, instead_of: str = "") -> Awaitable[bool]:
        """Replace the hash, if it is given only while it is ``instead_of``; False where nothing was replaced."""

    def set_email(uid: int, email: str, verified: str) -> Awaitable[None]:
        """Replace the account's address by one that its owner has proved; ``verified`` is ``email`` folded.

        :raises flux.errors.UserExists: another account has it verified.
        :raises flux.errors.UserInvalid: no such account.
        """

    def profile(uid: int) -> Awaitable[Profile]:
        """:raises flux.errors.UserInvalid: no such account."""

    def set_profile(
        uid: int, nick: str | None, description: str | None, sex: str | None, icon: str | None
    ) -> Awaitable[Profile]:
        """Change the given fields (None leaves one as it is) and return the profile."""

    def search(query: str, limit: int) -> Awaitable[tuple[Profile, ...]]:
        """Accounts whose folded name starts with the folded ``query`` or whose id it is, by name."""

    def open_session(uid: int) -> Awaitable[int]:
        """Take the account's next session number: above all that were taken and not given back.

        :raises flux.errors.UserInvalid: no such account.
        """

    def return_session(uid: int, number: int) -> Awaitable[None]:
        """Give a session number back that came to nothing and that nobody has been told of; it may be given again.

        Does nothing where it is not the newest any more.
        """

    def overview(uid: int) -> Awaitable[Overview]:
        """All that a login shows, in one snapshot begun after this call.

        :raises flux.errors.UserInvalid: no such account.
        """

    # bans

    def ban(ban: Ban) -> Awaitable[None]:
        """Keep a ban of an account, or of a network, in place of an earlier one of the same.

        Bans that were over at ``ban.at`` are removed. What a ban means is for those who ask.

        :raises flux.errors.UserInvalid: no such account.
        """

    def unban(uid: int, network: str) -> Awaitable[bool]:
        """Remove the ban of account ``uid``, or if that is 0 of ``network``; False where there was none."""

    def bans(limit: int) -> Awaitable[tuple[Ban, ...]]:
        """Bans, the newest first; some may be over."""

    def network_bans() -> Awaitable[tuple[Ban, ...]]:
        """All bans of networks; some may be over. Every process asks for them every few seconds."""

    # friends

    def friend_add(uid: int, to: int, note: str, remark: str, one_sided: bool) -> Awaitable[FriendStatus]:
        """Ask ``to`` to be a friend; ``accepted`` at once where ``to`` had asked before.

        Asking again refreshes note and remark.  ``one_sided`` enters ``to`` in the
        list of ``uid`` without waiting (the numbered dialect's way).

        :raises flux.errors.UserInvalid: no such account.
        :raises flux.errors.BadRequest: oneself.
        :raises flux.errors.Forbidden: ``to`` has blocked ``uid``.
        """

    def friend_answer(uid: int, sender: int, accept: bool, remark: str) -> Awaitable[FriendStatus]:
        """Answer the request of ``sender``.

        :raises flux.errors.NotFound: there is none.
        :raises flux.errors.Forbidden: accepting, while one of the two has blocked the other.
        """

    def friend_remove(uid: int, other: int) -> Awaitable[None]:
        """End the friendship on both sides, requests included. No friendship: nothing happens."""

    def block(uid: int, other: int) -> Awaitable[None]:
        """From now on ``other`` cannot send to ``uid`` one-to-one nor ask for friendship.

        It also does what :meth:`friend_remove` does, in the same transaction.

        :raises flux.errors.UserInvalid: no such account.
        """

    def unblock(uid: int, other: int) -> Awaitable[None]:
        """Undo :meth:`block`; a friendship that it has ended stays so."""

    def friends(uid: int) -> Awaitable[tuple[Friend, ...]]:
        """The friend list, by name."""

    def friend_requests(uid: int) -> Awaitable[tuple[FriendRequest, ...]]:
        """Requests waiting for an answer of ``uid``, oldest first."""

    # groups

    # Nobody becomes a member of more than ``most`` groups (0: no limit), by two calls at once neither.

    def group_create(
        uid: int, name: str, description: str, closed: bool, open_history: bool, most: int = 0
    ) -> Awaitable[Group]:
        """Create a group owned by ``uid``.

        :raises flux.errors.Forbidden: ``uid`` is in ``most`` groups.
        """

    def group_join(uid: int, group: int, most: int = 0) -> Awaitable[MemberChange]:
        """Join an open group; its head becomes both cursors.

        Who was removed stays out until :meth:`group_add`.

        A member who joins again stays what it is: the change then has the current
        version, and the head at which that member joined.

        :raises flux.errors.NotFound: no such group.
        :raises flux.errors.Forbidden: it is closed, or ``uid`` was removed from it, or is in ``most`` groups.
        """

    def group_leave(uid: int, group: int) -> Awaitable[MemberChange]:
        """Leave; the last member's leaving ends the group, its messages stay.

        :raises flux.errors.NotFound: no such group.
        :raises flux.errors.Forbidden: not a member, or the owner of a group with others in it.
        """

    def group_add(actor: int, group: int, uid: int, most: int = 0) -> Awaitable[MemberChange]:
        """Owner or admin adds ``uid``; who is a member already stays what it is.

        :raises flux.errors.Forbidden: ``actor`` is neither owner nor admin, or ``uid`` has blocked ``actor`` or is in
            ``most`` groups.
        :raises flux.errors.UserInvalid: no such account.
        """

    def group_remove(actor: int, group: int, uid: int) -> Awaitable[MemberChange]:
        """Owner or admin removes ``uid``; only the owner removes an admin, nobody the owner.

        :raises flux.errors.Forbidden: no right to.
        :raises flux.errors.NotFound: no such group, or ``uid`` is not a member.
        """

    def group_role(actor: int, group: int, uid: int, role: Role) -> Awaitable[MemberChange]:
        """The owner gives ``uid`` a role; giving ``owner`` hands over: the old owner becomes admin.

        :raises flux.errors.Forbidden: ``actor`` is not the owner, or it is about the owner itself.
        :raises flux.errors.NotFound: no such group, or ``uid`` is not a member.
        """

    def groups(uid: int) -> Awaitable[tuple[Group, ...]]:
        """The groups ``uid`` is a member of, by id."""

    def members(uid: int, group: int) -> Awaitable[tuple[Member, ...]]:
        """The members as ``uid``, a member, may see them: owner, admins, members, each by id.

        :raises flux.errors.NotFound: no such group.
        :raises flux.errors.Forbidden: ``uid`` is not a member.
        """

    def membership(chat: int) -> Awaitable[Membership]:
        """The chat's members for delivery.

        :raises flux.errors.NotFound: no such chat.
        """

    # messages

    def append(drafts: Sequence[Draft]) -> Awaitable[list[Receipt | FluxError]]:
        """Commit a batch as one transaction; one receipt or error per draft, in their order.

        Per chat ``seq`` is gap-free and ascends in the order of the drafts.  A ``cid``
        that the sender used in this chat before (or earlier in this batch) returns the
        first receipt with ``duplicate``; this is looked up before membership.  One bad
        draft never fails its neighbours.  The errors of a draft:
        ``UserInvalid`` (no such receiver), ``NotFound`` (no such group), ``Forbidden``
        (not a member; blocked), ``BadRequest`` (the same ``cid`` with another text, or
        a message to oneself).
        """

    def history(uid: int, chat: int, to: int, group: int, before: int, after: int, limit: int) -> Awaitable[Page]:
        """Messages of the chat (given by one of ``chat``, ``to``, ``group``; the others 0).

        ``before`` (0 where absent) and ``after`` (-1 where absent) are exclusive; with
        neither, the newest.
        A one-to-one chat that has no messages yet is an empty page with ``chat`` 0.

        :raises flux.errors.NotFound: no such chat.
        :raises flux.errors.Forbidden: not a member.
        """

    def fill(uid: int, chat: int, after: int, limit: int) -> Awaitable[tuple[Message, ...]]:
        """Messages past ``after`` that may be pushed to ``uid``, ascending, own ones included.

        Empty where ``uid`` is no member (any more); nothing below the membership's first.
        """

    def conversations(uid: int, limit: int) -> Awaitable[tuple[Conversation, ...]]:
        """Chats with at least one visible message, newest first.

        How far others have read is not told of who was blocked by ``uid``, nor, in a one-to-one chat, of who has
        blocked ``uid``.
        """

    def advance(moves: Sequence[CursorMove]) -> Awaitable[None]:
        """Move cursors forward: never back, never past the head, members only.

        A move whose ``number`` is below the account's newest session number is ignored.
        Without moves it does nothing, and fails where the store is known not to work.
        """

    def changes(mark: int) -> Awaitable[Changes]:
        """What moved since ``mark``, exactly; a mark of 0 returns only the current mark."""

    def prune(before: int, limit: int) -> Awaitable[int]:
        """Remove about ``limit`` messages older than ``before`` (ms) that have arrived everywhere; return how many.

        Of each chat the lowest go, below what every member's ``received`` has passed; its newest stays, so its
        head does. 0 means that a look at all chats has found none (or that another node is at it). Repetitions of
        a message that is gone are new messages.
        """


class IState(Interface):
    """What all processes share and may lose. Every method is atomic."""

    def start() -> Awaitable[None]:
        """Connect."""

    def stop() -> Awaitable[None]:
        """Disconnect."""

    # servers

    def renew(lease: Lease, routes: Sequence[tuple[int, int]]) -> Awaitable[Renewal]:
        """A node's heartbeat.

        Sets its lease and count and, in the same step, drops the reservations for it
        that a login has marked.  ``routes`` are (account, session number) of all its
        sessions: missing ones are restored, lower ones overwritten, those held by a
        higher number reported as lost.  A lower boot than the one on record changes
        nothing and is ``superseded``.  ``strays`` are routes that should not be there.
        A node whose own lease had lapsed is not told who has ``departed``: it may be the
        first to come back of many.
        """

    def retire(name: str, boot: int) -> Awaitable[None]:
        """Give the lease up; the node's routes are void from now on."""

    def drain(name: str, draining: bool) -> Awaitable[None]:
        """Mark or unmark a server as draining, whether it has a lease or not."""

    def snapshot() -> Awaitable[Snapshot]:
        """Live leases, reservations and draining marks."""

    def assign(choices: Sequence[Choice], hold: float, token_ttl: float) -> Awaitable[Snapshot]:
        """Record assignments and return the snapshot that includes them.

        Each makes a reservation (one per account: a new one replaces the old) that
        lapses after ``hold`` seconds, and stores the token's digest for ``token_ttl``
        seconds in place of an earlier one.
        """

    def reserved(uids: Sequence[int]) -> Awaitable[dict[int, str]]:
        """The servers that those of ``uids`` have a live reservation for who have one."""

    # sessions

    def claim(uid: int, route: Route, takeover: bool) -> Awaitable[Claim]:
        """Make ``route`` the account's route if its number is the highest; mark its reservation.

        Without ``takeover`` a route of a live node is never replaced.
        A route counts as live while the lease of its node *and boot* is.
        """

    def release(uid: int, route: Route) -> Awaitable[None]:
        """Remove the route if it is still exactly this one."""

    def routes(uids: Sequence[int]) -> Awaitable[dict[int, Route]]:
        """The live routes among ``uids``."""

    # tokens and counters

    def token_digest(uid: int) -> Awaitable[bytes | None]:
        """The digest of the account's login token, if it has not expired."""

    def revoke(uid: int) -> Awaitable[None]:
        """Forget the account's token."""

    def fail(keys: Sequence[str], window: float) -> Awaitable[None]:
        """Count a failure under each key; a counter starts with its first failure and lives ``window`` seconds."""

    def failures(keys: Sequence[str]) -> Awaitable[list[tuple[int, float]]]:
        """Per key: failures counted, and seconds until the counter is forgotten."""

    # bans of network addresses

    def offend(offences: Mapping[str, int], most: int, window: float, ban: float) -> Awaitable[tuple[str, ...]]:
        """Count offences of addresses, and ban for ``ban`` seconds those that have come to ``most``; returns these.

        A counter starts with its first offence and lives ``window`` seconds, or until the ban.
        While an address is banned nothing of it is counted, so a ban does not grow by itself.
        """

    def banned() -> Awaitable[dict[str, float]]:
        """The banned addresses, and in how many seconds each ban is over."""

    def pardon(address: str) -> Awaitable[bool]:
        """End the ban of an address and forget its offences; False where it was not banned."""

    # verification codes

    def set_code(key: str, digest: bytes, ttl: float) -> Awaitable[None]:
        """Keep a verification code's digest for ``ttl`` seconds, in place of an earlier one and its failed attempts."""

    def try_code(key: str, digest: bytes, tries: int) -> Awaitable[CodeCheck]:
        """Compare with the code kept under ``key``.

        ``accepted``: this is it, and now it is used up.  ``wrong``: it is another; with the
        ``tries``-th wrong attempt the code is gone.  ``unknown``: there is none, or none any more.
        """


class IBusSink(Interface):
    """Where a node takes what the bus brings."""

    def deliver(event: BusEvent) -> None:
        """An event for this node and boot. Never raises, never waits."""

    def gap() -> None:
        """Events may have been missed: called after every (re)connection, once the subscription is confirmed."""


class IBus(Interface):
    """Events between nodes: may be lost, doubled, reordered."""

    waiting = Attribute("How many events wait to be sent or handed over; those above a bound are lost")
    connected = Attribute("False while events of or for this process are known to get lost")

    def start() -> Awaitable[None]:
        """Connect."""

    def stop() -> Awaitable[None]:
        """Disconnect."""

    def publish(node: str, boot: int, event: BusEvent) -> Awaitable[None]:
        """Send to that boot of that node, if it listens; to nobody otherwise.

        Returns when the event is on its way, which says nothing about its arrival.
        """

    def broadcast(event: BusEvent) -> Awaitable[None]:
        """Send to every node that listens, whoever calls among them."""

    def multicast(events: Sequence[Addressed], but: tuple[str, int] | None = None) -> Awaitable[int]:
        """Send each event to the nodes where some of its ``uids`` have live routes, naming those alone.

        Each uid is named once. The routes are those that the shared state has at some moment after the call. What is
        for the same accounts keeps its order. :func:`flux.backends.multicast.multicast` does this with the other
        methods.

        :param but: the node and boot to which nothing is sent.
        :return: how many events are on their way, one for each node, or more where many accounts are there.
        :raises flux.errors.Unavailable: not all are on their way.
        """

    def listen(node: str, boot: int, sink: IBusSink) -> Awaitable[None]:
        """Hand this boot's events to ``sink`` from now on."""


class IBalancer(Interface):
    """Chooses a server. Synchronous; may keep state of its own (a round's position)."""

    name = Attribute("what the configuration calls it")

    def choose(uid: int, nodes: Sequence[Node]) -> Node | None:
        """One of ``nodes`` (all up, none full), or None if there are none."""


class IPlacement(Interface):
    """Gives users a server: the status service as a chat node or a gate sees it."""

    def assign(uids: Sequence[int], leaving: str = "") -> Awaitable[list[Assignment]]:
        """A server and a fresh token for each account, in order.

        :param leaving: the server they come from, which they are not given again.
        :raises flux.errors.NoServer: there is none to give.
        """


class IMailer(Interface):
    """Sends e-mail: verification codes, and what else the owner of an address has to know."""

    def start() -> Awaitable[None]:
        """Prepare; does not connect."""

    def stop() -> Awaitable[None]:
        """Send nothing any more."""

    def check() -> Awaitable[str]:
        """Reach whoever takes the mail, without sending any; a sentence about it for the admin.

        :raises flux.errors.Unavailable: it cannot be reached, or will not take mail; says why.
        """

    def send(to: str, subject: str, text: str) -> Awaitable[None]:
        """Send; returns when somebody else has taken the responsibility.

        :raises flux.errors.Unavailable: it was not sent, or perhaps not.
        :raises flux.errors.BadRequest: the address takes no mail.
        """
