"""The composition root: settings become services; the only room that names concrete classes.

``backends``  store, shared state and mailer, by the names in the configuration
``services``  the services of one process, in the order in which they start and stop
``chat``      a chat server: its node, its ports, its lease
``gate``      a gate; with what browsers need in ``browsers``
``checks``    what ``flux check`` tries
"""

from flux.assembly.backends import (
    back_up_store,
    copy_store,
    has_migrations,
    make_mailer,
    make_state,
    make_store,
    see_whether_idle,
)
from flux.assembly.checks import checks, mail_check, tls_checks
from flux.assembly.services import Assembly, assemble
from flux.backends.transfer import Copied, Interruption

__all__ = [
    "Assembly",
    "Copied",
    "Interruption",
    "assemble",
    "back_up_store",
    "checks",
    "copy_store",
    "has_migrations",
    "mail_check",
    "make_mailer",
    "make_state",
    "make_store",
    "see_whether_idle",
    "tls_checks",
]
