"""Several chat servers on one machine that look like one: ``chat.workers``.

::

    supervisor ─┬─ worker chat1-1 ── own port 8091 ──┐
                ├─ worker chat1-2 ── own port 8092 ──┼── chat.listen, shared by all
                └─ worker chat1-3 ── own port 8093 ──┘
         (with `twistd flux` it has the status service too)

Each worker is a chat node of its own with a name, a lease and sessions.  The supervisor
opens all ports, hands them over, and starts a worker again that has ended.  The ports stay
open meanwhile, so whoever connects waits in the queue instead of being refused, and a
worker that comes back is where it was.

``supervisor``  starts, watches, restarts, stops
``child``       one worker as the supervisor sees it
``handover``    what goes from one to the other: descriptors, a lifeline, an exit status
"""
