"""What moved since when, exactly: transactions that the previous look did not show.

Each transaction that moves something leaves a row in ``moves`` with its number.  A look is one statement, so one
snapshot; it takes the rows that the snapshot of the previous look did not show.  A transaction that was running
then is in the next look whenever it commits, which neither a time nor a serial would tell: those are given before.

A mark is a number for the snapshot of a look, kept here.  A mark that is not known (of another run, or very old) cannot
be answered, nor can one whose rows have been removed, nor any given before the database went back to an earlier state.

Rows are removed by snapshots, too: those that one shows which is old enough (``prune_moves``).  A look has missed
nothing if its own snapshot shows all of that, so a transaction that stays open for days, also in another database of
the server, neither makes looks incomplete nor keeps rows.
"""

from __future__ import annotations

import time
from collections import OrderedDict

import msgspec

from flux.backends.postgres.connection import Run
from flux.errors import Unavailable
from flux.model.overview import Changes

KEPT_MARKS = 100
"""Snapshots that are remembered."""

KEPT_TRANSACTIONS = 100_000
"""Transactions whose rows stay, and at most twice as many: those of some minutes under load, and of days without."""

_LAST_MOVE = "(SELECT m.xact::text || ' ' || m.at FROM moves m ORDER BY m.xact DESC LIMIT 1)"

NOW = f"SELECT pg_current_snapshot()::text, {_LAST_MOVE}"

# Those that began later, and those that were running. By xmin it would be all since the oldest that was running, which
# somebody may have left open days ago. In two parts, each of which can only be read by the index.
_UNSEEN = """
    SELECT m.* FROM moves m WHERE m.xact >= pg_snapshot_xmax(%({0})s::pg_snapshot)
    UNION ALL SELECT m.* FROM pg_snapshot_xip(%({0})s::pg_snapshot) running JOIN moves m ON m.xact = running"""

SINCE = f"""
    WITH moved AS MATERIALIZED ({_UNSEEN.format("seen")})
    SELECT pg_current_snapshot()::text, {_LAST_MOVE},
        EXISTS ({_UNSEEN.format("newest")}),
        (SELECT pg_snapshot_xmax(%(seen)s::pg_snapshot) >= pg_snapshot_xmax(gone)
            AND NOT EXISTS (SELECT FROM pg_snapshot_xip(%(seen)s::pg_snapshot) x WHERE pg_visible_in_snapshot(x, gone))
            FROM moves_kept),
        ARRAY(SELECT ARRAY[c.id, c.head] FROM chats c
            WHERE c.id IN (SELECT unnest(heads) FROM moved) AND c.head > 0)::text,
        ARRAY(SELECT ARRAY[c.id, c.version] FROM chats c WHERE c.id IN (SELECT unnest(members) FROM moved))::text,
        ARRAY(SELECT ARRAY[s.uid, s.number] FROM sessions s
            WHERE s.uid IN (SELECT unnest(sessions) FROM moved))::text"""

WITNESS = """
    SELECT EXISTS (SELECT FROM moves WHERE xact = %(xact)s AND at = %(at)s)
        OR (SELECT pg_visible_in_snapshot(%(xact)s::xid8, gone) FROM moves_kept)"""
"""Whether a row of moves is there, or was removed in its time."""

PRUNE = "SELECT prune_moves(%s)"

PRUNE_EVERY = 50
"""Looks of which one also removes old rows."""

BRACKETS = {ord("{"): "[", ord("}"): "]"}

_pairs = msgspec.json.Decoder(tuple[tuple[int, int], ...]).decode


class Marks:
    """The snapshots behind the marks that were given.

    :ivar generation: counts how often the database turned out to be another one, or to have gone back.
    :ivar told: whether who looks has heard of the last time. Until then, what it says of cursors is of another past.
    """

    def __init__(self) -> None:
        # Any start will do that is above all marks of earlier runs.
        self._start = self._last = time.time_ns()
        self._reset = self._start
        self._snapshots: OrderedDict[int, str] = OrderedDict()
        self._looks = 0
        self.generation = 0
        self._witness = ""
        self.told = True

    def newest(self) -> int:
        """The mark that was given last, 0 if none is left."""
        return next(reversed(self._snapshots), 0)

    def snapshot(self, mark: int) -> str | None:
        """What the look with this mark has shown; None if that is not known."""
        return self._snapshots.get(mark)

    def give(self, snapshot: str, moved: bool) -> int:
        """A mark for a look.

        :param moved: since the newest mark; if not, that one stands for this look too.
        """
        if moved or not self._snapshots:
            self._last += 1
        self._snapshots[self._last] = snapshot
        if len(self._snapshots) > KEPT_MARKS:
            self._snapshots.popitem(last=False)
        return self._last

    def forget(self) -> None:
        """The database is another one, or has gone back: nothing that was seen before may be relied on."""
        self._snapshots.clear()
        self._witness = ""
        self._last += 1
        self._reset = self._last
        self.generation += 1
        self.told = False

    def saw(self, move: str | None) -> None:
        """A row of ``moves`` that was there, as its number and its time."""
        if move:
            self._witness = move

    async def still_there(self, run: Run) -> bool:
        """Whether what was seen last is there, on a new connection."""
        if not self._witness:
            return True
        xact, at = self._witness.split()
        [[there]] = await run(WITNESS, {"xact": xact, "at": at})
        return bool(there)

    def is_void(self, mark: int) -> bool:
        """Whether a mark was given before :meth:`forget`."""
        return self._start < mark < self._reset

    def due(self) -> bool:
        """Whether it is time to remove old rows: before the first look, and now and then."""
        self._looks += 1
        return (self._looks - 1) % PRUNE_EVERY == 0


async def changes(run: Run, marks: Marks, mark: int) -> Changes:
    """See ``IStore``."""
    generation = marks.generation
    if marks.due():
        await run(PRUNE, (KEPT_TRANSACTIONS,))
    newest = marks.newest()
    seen = marks.snapshot(mark or newest)
    found: tuple[tuple[tuple[int, int], ...], ...] = ((), (), ())
    moved, complete = True, mark == 0
    if seen is None:
        [(snapshot, last)] = await run(NOW)
    else:
        values = {"seen": seen, "newest": marks.snapshot(newest)}
        [(snapshot, last, moved, complete, *literals)] = await run(SINCE, values)
        if mark and complete:
            found = tuple(_pairs(literal.translate(BRACKETS)) for literal in literals)
        complete |= mark == 0
    if marks.generation != generation:
        raise Unavailable("the database is another one, or has gone back to an earlier state")
    marks.saw(last)
    reset = not complete and marks.is_void(mark)
    marks.told |= reset
    heads, members, sessions = found
    return Changes(marks.give(snapshot, moved), heads, sessions, complete, members, reset)
