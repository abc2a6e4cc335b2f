"""Moving an installation from one kind of store to another: for commands, without a reactor.

::

    source ── one snapshot ──> rows of a table ──> target: one transaction
                                   │ sums                    │ rows of the table
                                   └──────── the same? <─────┘ sums ──> COMMIT

    tables.py    what there is to move, and the sums       copying.py   the move
    sqlite.py    an SQLite file as source or target        postgres.py  a PostgreSQL database likewise
"""

from flux.backends.transfer.copying import Copied, Interruption, copy
from flux.backends.transfer.postgres import PostgresSide
from flux.backends.transfer.sqlite import SqliteSide
from flux.backends.transfer.tables import Side

__all__ = ["Copied", "Interruption", "PostgresSide", "Side", "SqliteSide", "copy"]
