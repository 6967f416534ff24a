"""A state store that can be held up or made to fail, as a slow or a broken disk does."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from sync_server.storage.base import Batch, StateStore, StoredRun
from sync_server.storage.memory import MemoryStateStore

_PATIENCE = 30.0


class GatedStore:
    """In front of a real store. `hold` it, wait until somebody is `held`, and `release` it."""

    def __init__(self, inner: StateStore | None = None) -> None:
        self.inner = MemoryStateStore() if inner is None else inner
        self.transactions: list[list[Batch]] = []
        self.failures: list[Exception | None] = []  # what each of the next transactions does
        self._gate = threading.Event()
        self._gate.set()
        self._held = threading.Event()

    @property
    def held(self) -> bool:
        """Whether a transaction stands at the gate."""
        return self._held.is_set() and not self._gate.is_set()

    def hold(self) -> None:
        """Lets no transaction through from now on."""
        self._held.clear()
        self._gate.clear()

    def release(self) -> None:
        """Lets everything through."""
        self._gate.set()

    @property
    def in_memory(self) -> bool:
        """Or the gate would hold up the event loop."""
        return False

    def identity(self) -> str:
        """That of the store in the back."""
        return self.inner.identity()

    def load(self) -> list[StoredRun]:
        """What was let through."""
        return self.inner.load()

    def apply(self, batches: Sequence[Batch]) -> None:
        """Waits at the gate; then fails, or does what the store in the back does."""
        self._held.set()
        assert self._gate.wait(_PATIENCE), "nobody released the gate"
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        self.inner.apply(batches)
        self.transactions.append(list(batches))

    def close(self) -> None:
        """Closes the store in the back."""
        self.inner.close()
