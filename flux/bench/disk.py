"""How long the disk takes to make a write durable."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from statistics import median

#: Writes that are timed, of as many bytes as a small SQLite commit appends.
WRITES = 200
_BLOCK = b"\0" * 4096


def sync_latency(directory: Path) -> float:
    """Median time in seconds of a 4 KiB append and ``fdatasync`` to a file in ``directory``."""
    taken = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(WRITES):
            start = time.perf_counter()
            file.write(_BLOCK)
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - start)
    return median(taken)
