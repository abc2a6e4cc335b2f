"""Messages into chats: the path on which the speed of the whole depends.

The work per message is a look-up in memory, a receipt and values for one ``INSERT``;
everything else is per batch.  Two things make that possible:

- Heads and senders come from the writer's memory (``chats.py``).
- Nobody asks whether a ``cid`` is known: its unique index refuses the row, the
  transaction is rolled back and repeated carefully.  Repetitions are rare.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from flux.backends.sqlite.chats import LARGEST_ID, not_a_sender
from flux.backends.sqlite.runs import Run, insert
from flux.backends.sqlite.writer import Writer
from flux.errors import BadRequest, FluxError
from flux.model.messages import Draft, Receipt


def append(writer: Writer, drafts: Sequence[Draft]) -> list[Receipt | FluxError]:
    """See ``IStore.append``."""
    if writer.careful:
        return append_carefully(writer, drafts)
    young = writer.chats.young
    changed = writer.changed
    now = writer.now()
    outcomes: list[Receipt | FluxError] = []
    runs: dict[int, Run] = {}
    for draft in drafts:
        sender = draft.sender
        chat = young.get((sender, draft.to) if draft.to else draft.group)
        if chat is None or sender not in chat.senders:
            try:
                chat = writer.chats.find(draft, writer.members)
                if sender not in chat.senders:
                    outcomes.append(earlier(writer.db, chat.id, chat.version, draft) or not_a_sender(draft))
                    continue
            except FluxError as error:
                outcomes.append(refusal(error))
                continue
        number = chat.id
        run = runs.get(number)
        if run is None:
            run = runs[number] = []
            changed[number] = chat
        chat.head = seq = chat.head + 1
        if now > chat.at:
            chat.at = now
        run += (number, seq, sender, chat.at, draft.cid, draft.text)
        outcomes.append(Receipt(number, seq, chat.at, False, chat.version))
    insert(writer.db, runs.values())
    for number in runs:
        writer.heads[number] = changed[number].head
    return outcomes


def append_carefully(writer: Writer, drafts: Sequence[Draft]) -> list[Receipt | FluxError]:
    """The same draft by draft, in a transaction that stopped once already."""
    outcomes: list[Receipt | FluxError] = []
    for draft in drafts:
        try:
            outcomes.append(append_one(writer, draft))
        except FluxError as error:
            outcomes.append(refusal(error))
    return outcomes


def refusal(error: FluxError) -> FluxError:
    """The error without its traceback, which would keep the whole batch alive in a cycle."""
    return error.with_traceback(None)


def append_one(writer: Writer, draft: Draft) -> Receipt:
    """Append a draft that may have been appended before, or that no database could take."""
    if not 1 <= draft.sender <= LARGEST_ID:
        raise BadRequest("from: no identifier")
    for name, text in (("text", draft.text), ("cid", draft.cid)):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadRequest(f"{name}: holds a lone surrogate") from None
    chat = writer.chats.find(draft, writer.members)
    if receipt := earlier(writer.db, chat.id, chat.version, draft):
        return receipt
    if draft.sender not in chat.senders:
        raise not_a_sender(draft)
    writer.changed[chat.id] = chat
    chat.head += 1
    chat.at = max(chat.at, writer.now())
    insert(writer.db, [[chat.id, chat.head, draft.sender, chat.at, draft.cid, draft.text]])
    writer.heads[chat.id] = chat.head
    return Receipt(chat.id, chat.head, chat.at, False, chat.version)


def earlier(db: sqlite3.Connection, chat: int, version: int, draft: Draft) -> Receipt | None:
    """The receipt of the message that this draft repeats, if it repeats one.

    :raises BadRequest: the earlier one had another text.
    """
    if not draft.cid:
        return None
    for seq, at, text in db.execute(
        "SELECT seq, at, text FROM messages WHERE cid = ? AND cid <> '' AND sender = ? AND chat = ?",
        (draft.cid, draft.sender, chat),
    ).fetchall():
        if text != draft.text:
            raise BadRequest("cid: used before for another text")
        return Receipt(chat, seq, at, True, version)
    return None
