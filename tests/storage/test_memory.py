"""The store that forgets."""

from __future__ import annotations

from pathlib import Path

from sync_server.storage.base import StateStore
from sync_server.storage.memory import MemoryStateStore
from tests.storage.state_contract import StateStoreContract


class TestMemoryStateStore(StateStoreContract):
    """The contract, in memory."""

    def open_store(self, directory: Path) -> StateStore:
        """Nothing is kept in the directory."""
        del directory
        return MemoryStateStore()
