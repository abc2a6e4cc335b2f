"""The configuration: an INI file and ``--set`` options become frozen settings.

``kinds``     how a value is written and checked
``endpoints`` the same of endpoints, and what their text tells
``sections``  the table of all keys
``settings``  the settings themselves, and how two differ
``loading``   reading, and reporting every mistake at once
"""

from flux.config.endpoints import is_local, is_proxied, listens_on, reachable_at, socket_of, with_port
from flux.config.loading import ConfigError, Mistake, load, with_identity
from flux.config.sections import (
    SECTIONS,
    Admin,
    Chat,
    ChatServer,
    Gate,
    Key,
    Limits,
    Log,
    Mail,
    State,
    Status,
    Store,
    Tls,
    keys,
)
from flux.config.settings import Difference, Settings

__all__ = [
    "SECTIONS",
    "Admin",
    "Chat",
    "ChatServer",
    "ConfigError",
    "Difference",
    "Gate",
    "Key",
    "Limits",
    "Log",
    "Mail",
    "Mistake",
    "Settings",
    "State",
    "Status",
    "Store",
    "Tls",
    "is_local",
    "is_proxied",
    "keys",
    "listens_on",
    "load",
    "reachable_at",
    "socket_of",
    "with_identity",
    "with_port",
]
