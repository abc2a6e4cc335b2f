"""``python -m store_process PATH RUN``: send without end, and print every message that was acknowledged.

For tests that kill it, or that have the file already: then it says why it cannot start, with status 1.
"""

from __future__ import annotations

import sys
from contextlib import suppress

from twisted.internet import task
from twisted.internet.defer import ensureDeferred

from flux.backends.sqlite import SqliteStore
from flux.errors import UserExists
from flux.model.messages import Draft


async def main(reactor: object, path: str, run: str) -> None:
    store = SqliteStore(path, reactor)
    try:
        await store.start()
    except Exception as error:
        sys.exit(str(error))
    for name in ("ann", "bob", "cat", "dan"):
        with suppress(UserExists):
            await store.create_account(name, name, "", "", "")
    number = 0
    while True:
        drafts = []
        for receiver in (2, 3, 4) * 5:
            number += 1
            drafts.append(Draft(1, receiver, 0, f"{run}-{number}", f"{run}-{number}"))
        for draft, receipt in zip(drafts, await store.append(drafts), strict=True):
            print(receipt.chat, receipt.seq, draft.text)
        sys.stdout.flush()


if __name__ == "__main__":
    task.react(lambda reactor: ensureDeferred(main(reactor, *sys.argv[1:])))
