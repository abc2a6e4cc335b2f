"""The promises of ``IStore`` as tests that every implementation runs.

A test module subclasses :class:`StoreContract` and gives the fixture ``store``: a
started ``IStore`` that knows nothing yet; when the test is over it checks the
invariants (``store_invariants.py``) and stops it.
"""

from __future__ import annotations

from store_contract_cursors import CursorsContract
from store_contract_groups import GroupsContract
from store_contract_messages import AppendContract, PruneContract, ReadingContract
from store_contract_people import AccountsContract, BansContract, FriendsContract
from zope.interface.verify import verifyObject

from flux.interfaces import IStore


class StoreContract(
    AccountsContract,
    BansContract,
    FriendsContract,
    GroupsContract,
    AppendContract,
    ReadingContract,
    PruneContract,
    CursorsContract,
):
    def test_it_provides_the_interface(self, store) -> None:
        assert verifyObject(IStore, store)
