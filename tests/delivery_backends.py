"""What chat nodes without a reactor have behind them: store, shared state and bus, whose answers are steps.

A call to a backend makes two steps: it takes effect, and its answer arrives.  Anything
may happen before, between and after; calls of one node to one backend take effect in
the order they were made where the backend promises that, and their answers arrive in
any order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from delivery_steps import Steps, now
from store_invariants import check_invariants
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from flux.backends.multicast import multicast
from flux.backends.sqlite import SqliteStore
from flux.backends.sqlite.lanes import Call
from flux.chat.node import ChatNode
from flux.errors import Unavailable
from flux.interfaces import IBusSink
from flux.model.bus import Addressed, BusEvent


class InlineLane:
    """A lane of the store without threads: a call is run where it is made."""

    def __init__(self, runner: Callable[[], Any]) -> None:
        self._make = runner
        self.runner: Any = None

    async def start(self) -> None:
        self.runner = self._make()

    async def stop(self) -> None:
        self.runner.close()

    def call(self, work: Callable[[Any], Any]) -> Deferred[Any]:
        call: Call[Any, Any] = Call(work, 0.0)
        deferred = call.deferred
        assert deferred is not None
        self.runner.run([call])
        call.fire()
        return deferred


class InlineStore(SqliteStore):
    """The SQLite store, every statement of it, answering at once."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(path, Clock(), **options)  # type: ignore[arg-type]
        self._writer = InlineLane(self._open_writer)  # type: ignore[assignment]
        self._readers = InlineLane(self._open_reader)  # type: ignore[assignment]

    def open(self) -> InlineStore:
        now(self.start())
        # No computer is switched off in these tests.
        self._writer.runner.db.execute("PRAGMA synchronous = OFF")  # type: ignore[attr-defined]
        return self

    def contents(self, every_mark: bool = False) -> str:
        """Everything in it: the rows of all tables, and what it says has moved.

        :param every_mark: since any mark that was ever given, not only since it was opened.
        """
        writer = self._writer.runner  # type: ignore[attr-defined]
        changes = writer.changes
        tables = [
            name for (name,) in writer.db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1")
        ]
        rows = {table: sorted(map(repr, writer.db.execute(f'SELECT * FROM "{table}"'))) for table in tables}
        marks = range(changes._start, changes._number + 1) if every_mark else (changes._start,)
        moved = [[sorted(kind) for kind in (it.heads, it.members, it.sessions)] for it in map(changes.since, marks)]
        return f"{rows} {moved} {changes._number}"


@contextmanager
def opened_store(folder: Path) -> Iterator[InlineStore]:
    """A store for a lab, or for many one after the other; in the end the invariants are checked."""
    store = InlineStore(folder / "flux.db").open()
    yield store
    check_invariants(store)
    now(store.stop())


class Stepped:
    """One node's way to a backend.

    :param steps: where calls become steps; None makes every answer immediate.
    :param ordered: calls take effect in the order they were made.
    :ivar target: the backend.
    :ivar fault: asked with the method's name before each call: "" to let it work, "before" to
        fail it without effect, "after" to lose its answer.
    """

    def __init__(self, node: str, name: str, target: Any, steps: Steps | None, ordered: bool) -> None:
        self._label = f"{node}.{name}"
        self.target = target
        self.steps = steps
        self._ordered = ordered
        self.fault: Callable[[str], str] = lambda method: ""

    @property
    def past(self) -> str:
        """Of a store."""
        past: str = self.target.past
        return past

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        if method.startswith("_"):
            raise AttributeError(method)

        def call(*arguments: Any) -> Awaitable[Any]:
            fault = self.fault(method)
            if self.steps is None:
                return _faulty(fault, lambda: getattr(self.target, method)(*arguments))
            deferred: Deferred[Any] = Deferred(lambda _: None)
            label = f"{self._label}.{method}{arguments}"

            def take_effect() -> None:
                answer = _faulty(fault, lambda: getattr(self.target, method)(*arguments))
                self.steps.add(f"{label} = {_plain(answer)}", lambda: answer.chainDeferred(deferred))  # type: ignore[union-attr]

            self.steps.add(label, take_effect, self._label if self._ordered else None)
            return deferred

        return call


def _faulty(fault: str, work: Callable[[], Awaitable[Any]]) -> Deferred[Any]:
    if fault == "before":
        return fail(Unavailable("nothing was done"))
    try:
        result = now(work())
    except Exception as error:
        return fail(error)
    return fail(Unavailable("the answer was lost")) if fault else succeed(result)


def _plain(answer: Deferred[Any]) -> str:
    result = answer.result
    return result.type.__name__ if isinstance(result, Failure) else repr(result)


class LabBus:
    """A bus whose every delivery is a step of its own, in any order.

    :ivar copies: asked for each event and receiver how often it arrives; 0 loses it.
    """

    connected = True

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._sinks: dict[tuple[str, int], IBusSink] = {}
        self.copies: Callable[[BusEvent], int] = lambda event: 1

    async def start(self) -> None:
        """Nothing to connect to."""

    async def stop(self) -> None:
        """Nothing to disconnect from."""

    async def listen(self, node: str, boot: int, sink: IBusSink) -> None:
        self._sinks[node, boot] = sink

    async def publish(self, node: str, boot: int, event: BusEvent) -> None:
        sink = self._sinks.get((node, boot))
        if sink is not None:
            for _ in range(self.copies(event)):
                self._steps.add(f"bus.{node}.{event}", lambda: sink.deliver(event))

    async def broadcast(self, event: BusEvent) -> None:
        for node, boot in list(self._sinks):
            await self.publish(node, boot, event)

    def gap(self, node: ChatNode) -> None:
        """The node's connection to the bus was lost and is back."""
        self._sinks[node.name, node.boot].gap()


class NodeBus:
    """A node's way to the bus: where accounts are is looked up by a call of the node's, and so a step of its own."""

    def __init__(self, bus: LabBus, state: Stepped) -> None:
        self._bus = bus
        self._state = state

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def multicast(self, events: Sequence[Addressed], but: tuple[str, int] | None = None) -> int:
        return await multicast(self._state, self, events, but)


class NoHashing:
    """Every password is right."""

    async def verify(
        self, password: str, stored: str | None, address: str, allowed: Callable[[], Any]
    ) -> tuple[bool, None]:
        await allowed()
        return stored is not None, None
