"""The durable store of a cluster: one PostgreSQL database, shared by any number of nodes.

::

    store.py      IStore: what each method runs, and on which lane
    pool.py       calls and connections: who gets one, deadlines, what waits
    gathering.py  calls that share a statement
    connection.py one connection: opened, set up, lost
    channel.py    its socket, and the statement that runs there
    dsn.py        where the database is              failures.py   its errors, in our words
    append.py     messages into chats
    accounts.py  friends.py  groups.py  cursors.py  history.py: the statements by subject
    changes.py    what moved since when              schema.py     what a server and its tables must be like
    migrating.py  who of many applies what is missing, and how the others wait

What takes more than one statement is a function in the database (``migrations/postgres``), so that nothing is locked
while an answer travels, and a node that is stopped stops nobody else.
"""

from flux.backends.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
