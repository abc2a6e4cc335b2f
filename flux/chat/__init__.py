"""The chat service: accounts, sessions, friends, groups, and the delivery of messages.

::

    protocol   a connection: dialect, errors, limits        presence   who sees whom online
    session    one account's dialogue on a connection       cursors    gathered cursor writes
    requests_* what each request does                       delivery   positions, pushing, catching up
    journal    group commit of what is sent                 heartbeat  lease and routes in the shared state
    sweep      what moved in the store                      departure  clients are sent to other servers
    node       all of it together

The store is the truth; everything in memory here can be lost and is made again
from the cursors.  See ``ARCHITECTURE.md`` for a message's way through these.
"""
