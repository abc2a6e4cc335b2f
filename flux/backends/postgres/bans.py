"""Who is kept out."""

from __future__ import annotations

from flux.backends.postgres.connection import Run
from flux.errors import UserInvalid
from flux.model.people import Ban

NAMED = (
    "SELECT b.uid, b.network, b.reason, b.at, b.until, coalesce(a.name, '')"
    " FROM bans b LEFT JOIN accounts a ON a.id = b.uid"
)
NETWORKS = f"{NAMED} WHERE b.network > '' ORDER BY b.network"


async def ban(run: Run, new: Ban) -> None:
    """See ``IStore``; so for the other functions here."""
    rows = await run(
        "WITH over AS (DELETE FROM bans WHERE until > 0 AND until <= %s AND (network, uid) <> (%s, %s))"
        " INSERT INTO bans (network, uid, reason, at, until) SELECT %s, %s, %s, %s, %s"
        " WHERE %s = 0 OR EXISTS (SELECT FROM accounts WHERE id = %s) ON CONFLICT (network, uid)"
        " DO UPDATE SET reason = excluded.reason, at = excluded.at, until = excluded.until RETURNING uid",
        (
            new.at, new.network, new.uid, new.network, new.uid, new.reason, new.at, new.until, new.uid, new.uid,
        ),
    )  # fmt: skip
    if not rows:
        raise UserInvalid("there is no such user")


async def unban(run: Run, uid: int, network: str) -> bool:
    return bool(await run("DELETE FROM bans WHERE network = %s AND uid = %s RETURNING uid", (network, uid)))


async def bans(run: Run, limit: int) -> tuple[Ban, ...]:
    rows = await run(f"{NAMED} ORDER BY b.at DESC, b.network, b.uid LIMIT %s", (limit,))
    return tuple(Ban(*row) for row in rows)


async def network_bans(run: Run) -> tuple[Ban, ...]:
    return tuple(Ban(*row) for row in await run(NETWORKS))
