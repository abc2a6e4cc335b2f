"""When nobody reads: the moment in which the write-ahead log can begin anew."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 2.0
"""Seconds that the writer waits for the reads that run, and new ones for the writer."""


class Quiet:
    """Between the threads that read and the one that writes.

    SQLite lets the writer ask again and again whether a reader is there at that
    moment.  Where readers take turns there nearly always is one, so the writer may
    wait for seconds, and clients with it.  Here new reads wait until those that run
    have ended and the writer is done.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._reads = 0
        self._wanted = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around a snapshot, in a thread that reads."""
        with self._changed:
            self._changed.wait_for(lambda: not self._wanted)
            self._reads += 1
        try:
            yield
        finally:
            with self._changed:
                self._reads -= 1
                self._changed.notify_all()

    @contextmanager
    def nobody_reads(self) -> Iterator[None]:
        """For the writer: nobody reads here, unless a read takes longer than ``PATIENCE``."""
        with self._changed:
            self._wanted = True
            self._changed.wait_for(lambda: not self._reads, PATIENCE)
        try:
            yield
        finally:
            with self._changed:
                self._wanted = False
                self._changed.notify_all()
