"""Messages into chats: the path on which the speed of the whole depends.

Nearly all messages are for chats that are known here, from people who may send, with new cids.  For those the numbering
is prepared here (the n-th message of a chat gets its head + n), and one call locks the chats, looks whether all is as
supposed, inserts, and returns the heads.  Messages for which it is not (a cid that was used before, a sender who may
not) are set aside within that call: the rest of the batch does not pay for them.

A server that has little to do mostly stores one message at a time, to somebody who was written to before: that is one
statement, for 0.6 of what the call costs the database.

Who writes to somebody for the first time, or for the first time in a while, is not known here.  The chats of such pairs
have a negative number for the time being; that call begins with looking them up, and makes those that are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import msgspec
import psycopg2.errorcodes
import psycopg2.errors

from flux.backends.postgres.arrays import integers, list_of, texts
from flux.backends.postgres.connection import WANTED, Prepared, Run
from flux.errors import BadRequest, FluxError, Forbidden, NotFound, UserInvalid
from flux.model.messages import Draft, Receipt

LARGEST_ID = 2**63 - 1
"""Of a bigint. What is above is no identifier of ours."""

KNOWN = Prepared(
    f"""
    SELECT pairs::text, heads::text, versions::text, ats::text, move, apart
    FROM append_batch(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) WHERE {WANTED}""",
    until=True,
)

# One statement has one snapshot: what another transaction does before this one has the chat shows in `chats` alone. So
# this is not for groups, whose members may change, nor for a chat that somebody holds, as a cid might come meanwhile.
# One that comes in the moment until the chat is locked is refused by its index, and the server logs the statement.
ALONE = Prepared(
    f"""
    WITH chat AS (
        UPDATE chats SET head = head + 1, at = greatest(at, coalesce(%s, now_ms()))
        WHERE id = (SELECT id FROM chats WHERE id = %s AND NOT barred FOR NO KEY UPDATE SKIP LOCKED) AND NOT EXISTS (
            SELECT FROM messages m WHERE m.cid = %s AND m.cid <> '' AND m.sender = %s AND m.chat = %s)
        RETURNING id, head, version, at
    ), message AS (
        INSERT INTO messages (chat, seq, sender, at, cid, text) SELECT id, head, %s, at, %s, %s FROM chat
    ), move AS (
        INSERT INTO moves (heads) SELECT ARRAY[id] FROM chat RETURNING xact::text || ' ' || at AS move
    )
    SELECT head, version, at, move FROM chat, move WHERE {WANTED}""",
    until=True,
)

PROVE = """
    DO $$ BEGIN
        INSERT INTO messages (chat, seq, sender, at, cid, text)
            SELECT -pg_backend_pid(), n, 0, 0, n::text, repeat('x', 1900) FROM generate_series(1, 32) n;
        INSERT INTO moves (heads) VALUES ('{}');
        UPDATE chats SET head = head WHERE id = 0;
        RAISE SQLSTATE 'UNDO0';
    EXCEPTION WHEN SQLSTATE 'UNDO0' THEN
    END $$;
    SELECT true"""
"""Writes what an append does, and undoes it before anybody sees it. The messages, each just too short to be compressed,
need room that a table seldom has left."""

Outcome = Receipt | FluxError

_apart = msgspec.json.Decoder(list[tuple[int, tuple[str, int | None, int | None, int | None]]]).decode


class Pairs:
    """The chats of pairs that sent lately, in two generations: what is found in the older moves to the younger.

    A pair's chat never changes, and no chat goes, so that this is true until the database is another one.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self.young: dict[tuple[int, int], int] = {}
        self._old: dict[tuple[int, int], int] = {}

    def find(self, pair: tuple[int, int]) -> int:
        """The chat of (sender, receiver), or 0."""
        chat = self.young.get(pair, 0)
        if not chat and (chat := self._old.get(pair, 0)):
            self.remember(pair, chat)
        return chat

    def remember(self, pair: tuple[int, int], chat: int) -> None:
        """The chat of (sender, receiver) is this one."""
        if len(self.young) >= self._bound:
            self._old, self.young = self.young, {}
        self.young[pair] = chat


def chats_of(drafts: Sequence[Draft]) -> set[object]:
    """What the chats of some drafts are called before they are known: a pair, or the id of a group."""
    return {(min(draft.sender, draft.to), max(draft.sender, draft.to)) if draft.to else draft.group for draft in drafts}


async def append(
    run: Run, pairs: Pairs, saw: Callable[[str], None], clock: int | None, drafts: Sequence[Draft]
) -> list[Outcome]:
    """See ``IStore.append``.

    :param saw: is told which row of ``moves`` there is now.
    :param clock: the time in ms; None: the database's.
    """
    try:
        return await _append(run, pairs, saw, clock, drafts)
    except _Impossible:
        refusals = [_impossible(draft) for draft in drafts]
    possible = [draft for draft, refusal in zip(drafts, refusals, strict=True) if refusal is None]
    outcomes = iter(await _append(run, pairs, saw, clock, possible))
    return [next(outcomes) if refusal is None else refusal for refusal in refusals]


async def prove(run: Run) -> None:
    """See whether messages can be stored.

    :raises Unavailable: the database says why not.
    """
    await run(PROVE)


class _Impossible(Exception):
    """Among the drafts are some that no database could take."""


async def _append(
    run: Run, pairs: Pairs, saw: Callable[[str], None], clock: int | None, drafts: Sequence[Draft]
) -> list[Outcome]:
    """:raises _Impossible: nothing was written."""
    if not drafts:
        return []
    if len(drafts) == 1 and (receipt := await _alone(run, pairs, saw, clock, drafts[0])):
        return [receipt]
    young = pairs.young
    counts: dict[int, int] = {}
    inside: set[tuple[int, int]] = set()
    cids: set[tuple[int, int, str]] = set()
    chats: list[int] = []
    nths: list[int] = []
    unknown: dict[tuple[int, int], int] = {}
    for draft in drafts:
        sender, to, cid = draft.sender, draft.to, draft.cid
        if to:
            address = (sender, to)
            chat = young.get(address) or pairs.find(address)
            if not chat:
                if _impossible(draft):
                    raise _Impossible
                chat = unknown.setdefault((min(address), max(address)), -1 - len(unknown))
        else:
            chat = draft.group
            if chat < 1:
                raise _Impossible
            inside.add((sender, chat))
        chats.append(chat)
        if cid:
            known = len(cids)
            cids.add((sender, chat, cid))
            if len(cids) == known:
                nths.append(0)
                continue
        counts[chat] = nth = counts.get(chat, 0) + 1
        nths.append(nth)
    ids = sorted(counts)
    if ids[-1] > LARGEST_ID:
        raise _Impossible
    places = dict(zip(ids, range(1, len(ids) + 1), strict=True))
    try:
        [(found, heads, versions, ats, move, apart)] = await run(
            KNOWN,
            (
                integers(ids),
                integers([counts[chat] for chat in ids]),
                integers([sender for sender, _ in inside]),
                integers([group for _, group in inside]),
                integers([places[chat] for chat in chats]),
                integers(nths),
                integers([draft.sender for draft in drafts]),
                integers([draft.to for draft in drafts]),
                texts([draft.cid for draft in drafts]),
                texts([draft.text for draft in drafts]),
                clock,
            ),
        )
    except ValueError as error:
        # A NUL or a lone surrogate.
        raise _Impossible from error
    except psycopg2.Error as error:
        if error.pgcode in NO_IDENTIFIER:
            raise _Impossible from error
        raise
    saw(move)
    if unknown:
        _resolve(pairs, drafts, chats, list_of(found))
        ids = sorted(set(chats))
    facts = dict(zip(ids, zip(list_of(heads), list_of(ats), list_of(versions), strict=True), strict=True))
    aside = {place - 1: told for place, told in _apart(apart)} if apart else {}
    if aside or unknown:
        nths = _numbers(chats, aside)
    receipts: list[Outcome] = []
    for chat, nth in zip(chats, nths, strict=True):
        if nth:
            head, at, version = facts[chat]
            receipts.append(Receipt(chat, head + nth, at, False, version))
        else:
            place = len(receipts)
            receipts.append(_outcome(drafts[place], chat, *aside[place]))
    return receipts


async def _alone(run: Run, pairs: Pairs, saw: Callable[[str], None], clock: int | None, draft: Draft) -> Receipt | None:
    """Append a message to a pair's chat; None where nothing was written, since it is not as simple as that."""
    sender, cid, text = draft.sender, draft.cid, draft.text
    chat = pairs.find((sender, draft.to))
    if not chat:
        return None
    try:
        rows = await run(ALONE, (clock, chat, cid, sender, chat, sender, cid, text))
    except (psycopg2.errors.UniqueViolation, ValueError):
        # A ValueError: no database takes this text.
        return None
    for head, version, at, move in rows:
        saw(move)
        return Receipt(chat, head, at, False, version)
    return None


def _numbers(chats: Sequence[int], aside: Collection[int]) -> list[int]:
    """Which message of its chat each one is, without those in some places, which have 0."""
    counts: dict[int, int] = {}
    nths = []
    for place, chat in enumerate(chats):
        if place in aside:
            nths.append(0)
        else:
            counts[chat] = nth = counts.get(chat, 0) + 1
            nths.append(nth)
    return nths


def _resolve(pairs: Pairs, drafts: Sequence[Draft], chats: list[int], found: Sequence[int]) -> None:
    """Put what was found in place of negative numbers, 0 where there is no chat, and remember it."""
    for place, chat in enumerate(chats):
        if chat < 0:
            # The last of the negative numbers was found last.
            chats[place] = there = found[chat]
            if there:
                pairs.remember((drafts[place].sender, drafts[place].to), there)


NO_IDENTIFIER = (
    psycopg2.errorcodes.NUMERIC_VALUE_OUT_OF_RANGE,
    psycopg2.errorcodes.INVALID_TEXT_REPRESENTATION,
)
"""What the database says of a sender that is none."""


def _impossible(draft: Draft) -> FluxError | None:
    """Why the database need not be asked."""
    if not 1 <= draft.sender <= LARGEST_ID:
        return BadRequest("from: no identifier")
    if draft.to:
        if draft.to == draft.sender:
            return BadRequest("to: this is yourself")
        if not 1 <= draft.to <= LARGEST_ID:
            return UserInvalid("there is no such user")
    elif not 1 <= draft.group <= LARGEST_ID:
        return NotFound("there is no such group")
    for name, text in (("text", draft.text), ("cid", draft.cid)):
        if "\0" in text:
            return BadRequest(f"{name}: holds a NUL")
        try:
            text.encode()
        except UnicodeEncodeError:
            return BadRequest(f"{name}: holds a lone surrogate")
    return None


def _outcome(draft: Draft, chat: int, outcome: str, seq: int | None, at: int | None, version: int | None) -> Outcome:
    """What is said of a message that was looked at by itself."""
    match outcome:
        case "new" | "known":
            assert seq is not None
            assert at is not None
            assert version is not None
            return Receipt(chat, seq, at, outcome == "known", version)
        case "reused":
            return BadRequest("cid: used before for another text")
        case "nobody":
            return UserInvalid("there is no such user")
        case "no group":
            return NotFound("there is no such group")
        case "blocked":
            return Forbidden("this user has blocked you")
        case _:
            return Forbidden("you are not a member of this group")
