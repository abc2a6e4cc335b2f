"""Accounts, session numbers and boots."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from flux.backends.postgres.append import LARGEST_ID
from flux.backends.postgres.arrays import integers
from flux.backends.postgres.connection import WANTED, Prepared, Run
from flux.errors import FluxError, UserExists, UserInvalid
from flux.model.people import Ban, Credentials, Profile
from flux.names import fold

LAST = "\U0010ffff"
"""Sorts after every character of a name: no Unicode character, and the highest code point there is."""

PROFILE = "id, name, nick, description, sex, icon"

CREDENTIALS = """
    SELECT a.id, a.name, a.password_hash, CASE WHEN a.verified IS NULL THEN '' ELSE a.email END, a.nick, a.description,
        a.sex, a.icon, b.reason, b.at, b.until
    FROM accounts a LEFT JOIN bans b ON b.network = '' AND b.uid = a.id WHERE a.{} = %s"""
BY_ID, BY_KEY, BY_ADDRESS = (Prepared(CREDENTIALS.format(column)) for column in ("id", "key", "verified"))
OPEN_SESSIONS = Prepared(f"SELECT uid, number FROM open_sessions(%s) WHERE {WANTED}", until=True)

TAKEN = "this e-mail address belongs to another account"


async def next_boot(run: Run, node: str) -> int:
    """See ``IStore``; so for the other functions here."""
    [[boot]] = await run(
        "INSERT INTO boots VALUES (%s, 1) ON CONFLICT (node) DO UPDATE SET boot = boots.boot + 1 RETURNING boot",
        (node,),
    )
    return int(boot)


async def create_account(
    run: Run, name: str, key: str, password_hash: str, nick: str, email: str, icon: str, verified: str
) -> int:
    [[uid]] = await run(
        "SELECT create_account(%s, %s, %s, %s, %s, %s, %s)", (name, key, password_hash, nick, email, icon, verified)
    )
    if uid <= 0:
        raise UserExists(TAKEN if uid else "this name is taken")
    return int(uid)


async def credentials(run: Run, uid: int, key: str, verified: str) -> Credentials | None:
    if uid:
        rows = await run(BY_ID, (uid,))
    else:
        rows = await run(BY_KEY, (key,)) if key else await run(BY_ADDRESS, (verified,))
    if not rows:
        return None
    *_, reason, at, until = rows[0]
    known = Credentials(*rows[0][:-3])
    return known if at is None else replace(known, ban=Ban(known.id, "", reason, at, until, known.name))


async def set_email(run: Run, uid: int, email: str, verified: str) -> None:
    [[outcome]] = await run("SELECT set_email(%s, %s, %s)", (uid, email, verified))
    if outcome == "taken":
        raise UserExists(TAKEN)
    if outcome == "nobody":
        raise UserInvalid("there is no such user")


async def set_password(run: Run, uid: int, password_hash: str, instead_of: str) -> bool:
    rows = await run(
        "UPDATE accounts SET password_hash = %s WHERE id = %s AND %s IN ('', password_hash) RETURNING id",
        (password_hash, uid, instead_of),
    )
    return bool(rows)


async def profile(run: Run, uid: int) -> Profile:
    rows = await run(f"SELECT {PROFILE} FROM accounts WHERE id = %s", (uid,))
    if not rows:
        raise UserInvalid("there is no such user")
    return Profile(*rows[0])


async def set_profile(
    run: Run, uid: int, nick: str | None, description: str | None, sex: str | None, icon: str | None
) -> Profile:
    rows = await run(
        "UPDATE accounts SET nick = coalesce(%s, nick), description = coalesce(%s, description),"
        f" sex = coalesce(%s, sex), icon = coalesce(%s, icon) WHERE id = %s RETURNING {PROFILE}",
        (nick, description, sex, icon, uid),
    )
    if not rows:
        raise UserInvalid("there is no such user")
    return Profile(*rows[0])


async def search(run: Run, query: str, limit: int) -> tuple[Profile, ...]:
    prefix = fold(query)
    uid = int(query) if query.isascii() and query.isdecimal() and len(query) < 20 else 0
    rows = await run(
        f"SELECT {PROFILE}, key FROM accounts WHERE id = %s UNION"
        f" (SELECT {PROFILE}, key FROM accounts WHERE key BETWEEN %s AND %s ORDER BY key LIMIT %s)"
        " ORDER BY key LIMIT %s",
        (min(uid, LARGEST_ID), prefix, prefix + LAST, limit, limit),
    )
    return tuple(Profile(*row[:-1]) for row in rows)


async def open_sessions(run: Run, uids: Sequence[int]) -> list[int | FluxError]:
    """A session number for each; an account that is named twice gets two."""
    newest: dict[int, int] = dict(await run(OPEN_SESSIONS, (integers(uids),)))
    outcomes: list[int | FluxError] = []
    # From the last on: that one has the newest.
    for uid in reversed(uids):
        number = newest.get(uid)
        if number is None:
            outcomes.append(UserInvalid("there is no such user"))
        else:
            outcomes.append(number)
            newest[uid] = number - 1
    outcomes.reverse()
    return outcomes


async def return_session(run: Run, uid: int, number: int) -> None:
    await run("UPDATE sessions SET number = number - 1 WHERE uid = %s AND number = %s RETURNING number", (uid, number))
