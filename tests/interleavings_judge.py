"""What has to be true when everything has arrived, whatever the order was.

- One session is live, and it is the one with the highest number; the others were told so.
- The account has been sent each message exactly once, in order.
- The shared state knows where the session is.

After a wipe less comes by itself: the newest session is live whatever happens, two
heartbeats alone make it the only one, and two sweeps alone do that and bring it the
message.

A sender's node does not ask where the receiver is if it has a session of it itself.  Where
a newer one was on another node already and the kick still on its way, a sweep brings that
one the message.
"""

from __future__ import annotations

from interleavings import Everything, World
from interleavings_explore import Exploration
from interleavings_nodes import Shown


class Judge:
    """Looks at the ends of a scene."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.scene = scene = world.scene
        self.messages = tuple(f"message {seq}" for seq in range(scene.received + 1, scene.earlier + 2))
        self.sender_has_older = scene.sender in scene.logins[:-1] and scene.sender != scene.logins[-1]

    def __call__(self, end: Everything) -> None:
        """:raises AssertionError: something is not true."""
        if self.scene.wipe:
            assert self.newest(end), "the newest session has ended"
            later = self.world.after_heartbeats(self.world.after_heartbeats(end))
            self.check_session(later)
            self.check_route(later)
            later = self.world.after_sweeps(self.world.after_sweeps(end))
            self.check_session(later)
            self.check_messages(later)
            return
        self.check_session(end)
        self.check_route(end)
        self.check_messages(self.world.after_sweeps(end) if self.sender_has_older else end)

    def newest(self, end: Everything) -> list[Shown]:
        """The connection with the newest session."""
        number = self.world.opened(end[self.world.store])
        return [shown for shown in self.world.shown(end) if shown.live and shown.number == number]

    def check_session(self, end: Everything) -> None:
        """One session, the newest; the others know."""
        newest = self.newest(end)
        assert len(newest) == 1, f"{len(newest)} sessions with the highest number"
        for other in self.world.shown(end):
            assert other is newest[0] or self.is_over(other), f"a second session: {other}"

    def is_over(self, shown: Shown) -> bool:
        """Whether this connection is not the account's any more, and was told so."""
        if not self.scene.takeover and shown.lines == ("error already_logged_in",):
            return True
        return shown.closed and (self.scene.numbered or shown.lines == ("kicked takeover",))

    def check_route(self, end: Everything) -> None:
        """Whoever has a message for the account finds it."""
        [newest] = self.newest(end)
        route = self.world.route(end)
        assert route is not None, "nobody knows where the session is"
        assert route.number == newest.number, f"{route} is not where the session is"

    def check_messages(self, end: Everything) -> None:
        """All of them, once, in order."""
        [newest] = self.newest(end)
        assert newest.lines == ("login.ok", *self.messages), f"the session was told: {newest.lines}"


def explored(world: World, kind: type[Exploration] = Exploration) -> Exploration:
    """Judge all ends of a scene.

    :raises Fault: something is not as it has to be; the text says after which steps.
    """
    exploration = kind(world, Judge(world))
    exploration.run()
    assert exploration.ends
    return exploration
