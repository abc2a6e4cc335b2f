"""The configuration: an INI file and ``--set`` options become frozen settings.

``kinds``     how a value is written and checked
``settings``  the table of all keys, and the settings themselves
``loading``   reading, and reporting every mistake at once
"""

from flux.config.kinds import HostPort, is_local, is_proxied, reachable_at, with_port
from flux.config.loading import ConfigError, Mistake, load, with_identity
from flux.config.settings import (
    SECTIONS,
    Admin,
    Chat,
    ChatServer,
    Difference,
    Gate,
    Key,
    Limits,
    Log,
    Mail,
    Settings,
    State,
    Status,
    Store,
    Tls,
    keys,
)

__all__ = [
    "SECTIONS",
    "Admin",
    "Chat",
    "ChatServer",
    "ConfigError",
    "Difference",
    "Gate",
    "HostPort",
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
    "load",
    "reachable_at",
    "with_identity",
    "with_port",
]
