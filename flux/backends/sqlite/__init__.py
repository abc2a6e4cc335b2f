"""The durable store of a single server: one SQLite file in WAL mode, owned by one process.

::

    store.py     IStore: what each method runs, and on which lane
    lanes.py     calls from the reactor to the threads and back, in batches, with deadlines
    writer.py    the one thread that writes: every batch is a transaction
    reader.py    the threads that read: every batch is a snapshot
    append.py    messages into chats           chats.py    the writer's memory of chats
    accounts.py  friends.py  groups.py  cursors.py  history.py: the statements by subject
    runs.py      which messages a chat has, in runs
    changes.py   what moved since when         schema.py   the file: lock, pragmas, migrations
    backup.py    a copy while it is in use     checks.py   what flux check tries
"""

from flux.backends.sqlite.checks import check_sqlite
from flux.backends.sqlite.store import SqliteStore

__all__ = ["SqliteStore", "check_sqlite"]
