"""A cable between a browser and a server that can be cut, or swallow what the server says."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import Self


class Cable:
    """Carries connections to ``port``; the browser connects to :attr:`port`."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._plugged = True
        self._swallowing = False
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        # Wakes the one that accepts.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def cut(self) -> None:
        """End all connections, and let none through."""
        with self._lock:
            self._plugged = False
            ends, self._ends = self._ends, set()
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def swallow(self) -> None:
        """From now on the server hears the browser, and the browser does not hear the server."""
        self._swallowing = True

    def mend(self) -> None:
        """Let connections through again."""
        with self._lock:
            self._plugged = True
            self._swallowing = False

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                plugged = self._plugged
            try:
                if not plugged:
                    raise OSError
                far = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                near.close()
                continue
            threading.Thread(target=self._carry, args=(near, far), daemon=True).start()

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        with near, far:
            with self._lock:
                self._ends |= {near, far}
            other = {near: far, far: near}
            with contextlib.suppress(OSError):
                while True:
                    for source in select.select([near, far], [], [])[0]:
                        data = source.recv(65536)
                        if not data:
                            raise OSError("closed")
                        if not (source is far and self._swallowing):
                            other[source].sendall(data)
            with self._lock:
                self._ends -= {near, far}
