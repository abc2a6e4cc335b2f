"""The chat service: accounts, sessions, friends, groups, and the delivery of messages.

::

    protocol   a connection: dialect, errors, limits        presence   who sees whom online
    session    one account's dialogue on a connection       cursors    gathered cursor writes
    requests_* what each request does                       delivery   who is written what, at once
    journal    group commit of what is sent                 positions  how far each session has its chats
    sweep      what moved in the store                      members    who is in a chat
    heartbeat  lease and routes in the shared state         catchup    filling sessions from the store
    departure  clients are sent to other servers            node       all of it together

The store is the truth; everything in memory here can be lost and is made again
from the cursors.  See ``ARCHITECTURE.md`` for a message's way through these.
"""
