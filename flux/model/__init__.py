"""The values that travel between the parts: frozen, typed, without behaviour.

::

    people     accounts, friends, bans            ┐
    chats      groups, members, cursors           │ records: what is in the store
    messages   drafts, receipts, messages         │
    overview   what logins and sweeps read        ┘
    events     what clients are told unasked      ┐ JSON: events and messages are lines of the named dialect,
    bus        what nodes tell each other         ┘ and the same bytes cross the bus
    sessions   where an account's session is      ┐ what is in the shared state
    placement  chat servers, and who is sent      ┘

Identifiers are positive integers below 2**63; a group's id is its chat's id.
Times are milliseconds since the Unix epoch, UTC.  Fields that are absent on the
wire are ``UNSET``.
"""
