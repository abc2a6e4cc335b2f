"""What a chat node is asked for when somebody looks: its metrics, and who is here."""

from __future__ import annotations

from heapq import nsmallest
from typing import TYPE_CHECKING

from flux.model.sessions import SessionSeen
from flux.names import fold
from flux.wire.numbered import NumberedDialect

if TYPE_CHECKING:
    from flux.chat.node import ChatNode


def watch(node: ChatNode) -> None:
    """Let the node's metrics ask it."""
    gauge, delivery = node.metrics.gauge, node.delivery
    gauge("flux_sessions", "Accounts logged in here.", lambda: len(node.sessions))
    gauge(
        "flux_sessions_behind",
        "Sessions that are being brought up to date from the store, or wait for it.",
        lambda: sum(session.placed and not session.live for session in node.sessions.values()),
    )
    gauge("flux_connections", "Open connections of clients.", lambda: len(node.connections))
    gauge("flux_chats", "Chats with somebody here in them.", lambda: len(delivery.chats))
    gauge("flux_draining", "1 while no logins are taken.", lambda: node.draining)
    gauge("flux_commits_waiting", "Messages waiting to be stored.", lambda: node.journal.waiting)
    gauge("flux_hints_waiting", "Messages other nodes are to be told of.", lambda: node.spread.waiting)
    gauge("flux_catchups_waiting", "Sessions waiting for their turn to be filled.", lambda: delivery.catchup.waiting)
    gauge("flux_cursors_waiting", "Sessions whose cursors are to be written.", lambda: node.cursors.waiting)
    node.metrics.counter(
        "flux_messages_delivered",
        "Messages written to sessions here.",
        lambda: delivery.written + delivery.catchup.written,
    )


def sessions(node: ChatNode, query: str, limit: int) -> list[SessionSeen]:
    """The sessions here whose account's id or connection ``query`` is, or whose name begins with it; by account."""
    folded = fold(query)
    found = (
        session
        for session in node.sessions.values()
        if not query or query in (str(session.uid), session.conn) or fold(session.name).startswith(folded)
    )
    return [
        SessionSeen(
            id=session.uid,
            name=session.name,
            number=session.number,
            address=session.connection.address,
            conn=session.conn,
            dialect="numbered" if isinstance(session.dialect, NumberedDialect) else "named",
            chats=len(session.chats),
            live=session.live,
            since=max(0.0, node.clock.seconds() - session.connection.born),
        )
        for session in nsmallest(limit, found, key=lambda session: session.uid)
    ]
