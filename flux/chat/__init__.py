"""The chat service: accounts, sessions, friends, groups, and the delivery of messages.

::

    protocol   a connection: dialect, errors, limits        passwords  argon2id, off the reactor
    session    one account's dialogue on a connection       throttle   guesses and floods
    requests_* what each request does                       presence   who sees whom online
    journal    group commit of what is sent                 cursors    gathered cursor writes
    delivery   positions, pushing, catching up              node       all of it together, heartbeat, sweep

The store is the truth; everything in memory here can be lost and is made again
from the cursors.  See ``ARCHITECTURE.md`` for a message's way through these.
"""
