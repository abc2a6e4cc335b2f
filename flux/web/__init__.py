"""The web client: a page that chats, in ``static/``, and what serves it.

::

    index.html ── main.js ─┬─ view_sign ── gate            before there is a session: HTTP
                           └─ view_shell ─┬─ view_side     conversations, people
                                │         └─ view_chat     messages ── timeline, composer
                              store  <── session ── link   what is known <── kept right <── WebSocket

No build step: the files are served as they stand here.
"""
