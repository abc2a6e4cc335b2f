"""What every test must leave behind: nothing.

After each test this fails on delayed calls still pending, sockets and ports
still registered with the reactor, and errors that were logged, unhandled errors
of Deferreds among them.  pytest-twisted notices none of these.

A test that provokes an error in the log takes it out with ``flush_logged_errors``::

    async def test_refuses(flush_logged_errors):
        ...
        [event] = flush_logged_errors(ZeroDivisionError)

The reactor is imported inside the fixtures only: at the top it would defeat
``pytest --reactor=asyncio``.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
import pytest_twisted
from browser import Browser, Tab
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import LogEvent, LogLevel, eventAsText, globalLogBeginner, globalLogPublisher
from web_people import PASSWORD, Lines, Server

from flux.bench.engines import PostgresServer, RedisServer

#: Turns of the reactor a closing connection gets to be gone.
SETTLING_TURNS = 5

pytest_plugins = ["no_skips"]

FlushLoggedErrors = Callable[..., list[LogEvent]]


def pytest_configure() -> None:
    """Stop Twisted from keeping and printing what is logged while nobody listens; no example is too slow."""
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    # How long an example takes says how busy the machine is.
    hypothesis.settings.register_profile("flux", deadline=None)
    hypothesis.settings.load_profile("flux")
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # Of a shell that runs the tests in the background. What tests start would be deaf to it, too.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are processors: many tests wait for processes and disks."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where processes share the files, those with slow tests come first: one of them begun last leaves others idle."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Make the collection after each test quick: what is imported by now stays."""
    gc.collect()
    gc.freeze()


class LoggedErrors:
    """Collects events at error level and above."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        # An unhandled error of a Deferred is two events: a headline, and the failure.
        headline = event["log_namespace"] == "twisted.internet.defer" and "log_failure" not in event
        if event["log_level"] in (LogLevel.error, LogLevel.critical) and not headline:
            self.events.append(event)

    def flush(self, *types: type[BaseException]) -> list[LogEvent]:
        """Remove and return the events with a failure of one of ``types``; without types, all events."""
        # Failures of Deferreds are logged when those are collected.
        gc.collect()
        flushed = [e for e in self.events if not types or ("log_failure" in e and e["log_failure"].check(*types))]
        self.events = [e for e in self.events if e not in flushed]
        return flushed


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A running Redis for all tests that leave it as it was: running, and with nothing under a key of another test."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A running PostgreSQL for all tests that leave it as it was; each makes a database or a schema of its own."""
    with PostgresServer(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="session")
def quick_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """The same without waiting for the disk, for tests with thousands of commits. Nobody switches the machine off."""
    with PostgresServer(tmp_path_factory.mktemp("quick-postgres"), {"fsync": "off", "autovacuum": "off"}) as server:
        yield server


@pytest.fixture(scope="module", autouse=True)
def _left_by_others() -> LoggedErrors:
    """What the files before have left is collected once more, and what lives on is not looked at again.

    Without that the collection after each test goes through all that the tests before keep alive (their reports,
    caches, what ``flux bench`` thaws): by the end it takes a quarter of a second, and a third of the whole run.
    """
    from twisted.internet import reactor

    errors = LoggedErrors()
    globalLogPublisher.addObserver(errors)
    # Until it makes another call the reactor keeps the last one, and with it what that test had.
    pytest_twisted.blockon(_turn(reactor))
    gc.collect()
    globalLogPublisher.removeObserver(errors)
    gc.freeze()
    return errors


@pytest.fixture(autouse=True)
def _leaves_nothing(_left_by_others: LoggedErrors) -> Iterator[LoggedErrors]:
    from twisted.internet import reactor

    errors = LoggedErrors()
    # The first test of a file tells of them.
    errors.events, _left_by_others.events = _left_by_others.events, []
    globalLogPublisher.addObserver(errors)
    before = _busy(reactor)
    try:
        yield errors
        leftovers = _leftovers(reactor, before)
        turns = SETTLING_TURNS
        while leftovers and turns:
            pytest_twisted.blockon(_turn(reactor))
            leftovers = _leftovers(reactor, before)
            turns -= 1
        gc.collect()
    finally:
        globalLogPublisher.removeObserver(errors)
    complaints = [f"left in the reactor: {thing}" for thing in leftovers]
    for thing in leftovers:
        _dispose(reactor, thing)
    complaints += [f"logged: {eventAsText(event, includeTimestamp=False)}" for event in errors.events]
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)


@pytest.fixture
def flush_logged_errors(_leaves_nothing: LoggedErrors) -> FlushLoggedErrors:
    """Takes expected errors out of the log: see :meth:`LoggedErrors.flush`."""
    return _leaves_nothing.flush


def _busy(reactor: Any) -> list[Any]:
    """What the reactor waits for on behalf of tests."""
    calls = [c for c in reactor.getDelayedCalls() if getattr(c.func, "__module__", "") != "pytest_twisted"]
    selectables = [
        s for s in {*reactor.getReaders(), *reactor.getWriters()} if type(s).__module__ != "twisted.internet._signals"
    ]
    return calls + selectables


def _leftovers(reactor: Any, before: list[Any]) -> list[Any]:
    return [thing for thing in _busy(reactor) if not any(thing is other for other in before)]


def _turn(reactor: Any) -> Any:
    from twisted.internet.task import deferLater

    return deferLater(reactor, 0)


def _dispose(reactor: Any, thing: Any) -> None:
    """Keep the mess of one test from the next ones."""
    if IDelayedCall.providedBy(thing):
        thing.cancel()
        return
    reactor.removeReader(thing)
    reactor.removeWriter(thing)
    if hasattr(thing, "abortConnection"):
        thing.abortConnection()
    elif hasattr(thing, "stopListening"):
        _ = thing.stopListening()


# --- browsers ----------------------------------------------------------------


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real browser, for all tests."""
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="session")
def web_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that browsers chat on, for all tests that use names of their own."""
    server = Server(tmp_path_factory.mktemp("web-server"))
    yield server
    server.stop()


@pytest.fixture
def tabs(browser: Browser, web_server: Server) -> Iterator[Callable[..., Tab]]:
    """Makes tabs of a browser; at the end they are closed, and must not have complained."""
    opened: list[Tab] = []

    def open_tab(url: str = "", **options: Any) -> Tab:
        opened.append(browser.tab(url or web_server.url, **options))
        return opened[-1]

    yield open_tab
    complaints = [complaint for tab in opened for complaint in tab.complaints()]
    for tab in opened:
        tab.close()
    browser.events.clear()
    # That a request was refused or reached nobody is no fault of the page, nor that HTTPS would protect it more.
    no_fault = ("Failed to load resource", "WebSocket connection to", "The Cross-Origin-Opener-Policy header has been")
    assert [complaint for complaint in complaints if not complaint.startswith(no_fault)] == []


@pytest.fixture
def lines(web_server: Server) -> Iterator[Callable[[str], Lines]]:
    """Registers people and logs them in on the chat port of ``web_server``."""
    opened: list[Lines] = []

    def log_in(name: str) -> Lines:
        opened.append(Lines(web_server.chat_port))
        opened[-1].ask("register", name=name, password=PASSWORD)
        opened[-1].ask("login", name=name, password=PASSWORD)
        return opened[-1]

    yield log_in
    for each in opened:
        each.close()
