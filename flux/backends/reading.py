"""Messages and conversations as both SQL stores read them: the statements differ, their rows do not."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from flux.model.messages import Conversation, Message


def message(chat: int, low: int | None, high: int | None, row: tuple[Any, ...]) -> Message:
    """A row of (seq, sender, name, text, at) of a one-to-one chat, or of a group if there is no pair."""
    seq, sender, name, text, at = row
    if low is None or high is None:
        return Message(chat, seq, sender, name, text, at, UNSET, chat)
    return Message(chat, seq, sender, name, text, at, low + high - sender)


def conversation(uid: int, row: tuple[Any, ...]) -> Conversation:
    """A row of (chat, low, high, name, a message's five, unread, read, read_by) as the account ``uid`` sees it."""
    chat, low, high, name, *last, unread, read, read_by = row
    group = low is None
    return Conversation(
        chat,
        name,
        message(chat, low, high, tuple(last)),
        unread,
        read,
        UNSET if group else low + high - uid,
        chat if group else UNSET,
        read_by,
    )
