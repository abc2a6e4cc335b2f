"""What tests of accounts share."""

from __future__ import annotations

from chat_server import ChatServer, with_changes

from flux.accounts.accounts import Accounts
from flux.accounts.rules import check_email
from flux.bans import Bans
from flux.metrics import AccountMetrics

GOOD = "a fine password"
MAIL = "Ann@Example.org"
HOME = "10.0.0.1"


def accounts_of(server: ChatServer, **changes: object) -> Accounts:
    settings = with_changes(server.settings, **changes)
    bans = Bans(settings, server.store, server.state, server.clock)
    return Accounts(
        settings, server.store, server.state, server.bus, server.passwords, AccountMetrics(), bans, server.reactor
    )  # fmt: skip


async def verified(accounts: Accounts, name: str, email: str) -> int:
    """An account with a verified address."""
    code = await accounts.codes.issue("register", check_email(email), HOME)
    return await accounts.register(name, GOOD, HOME, "c1", email=email, code=code)
