"""Group commit: order, what a write promises, and whose failure it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from sync_server.domain.runs import NothingNew, RunCreated
from sync_server.journal import Journal
from sync_server.storage.base import Batch, StorageError
from tests.storage.gated import GatedStore
from tests.storage.records import batch
from tests.until import until_async


@pytest.fixture
def store() -> GatedStore:
    """A store that is not held up."""
    return GatedStore()


@pytest.fixture
async def journal(store: GatedStore) -> AsyncIterator[Journal]:
    """A journal on it."""
    made = Journal(store)
    yield made
    store.release()
    await made.close()


def numbered(index: int, run_id: str = "r") -> Batch:
    """The batch that makes revision `index`."""
    change = RunCreated() if index == 1 else NothingNew("t")
    return batch(change, after=index - 1, run_id=run_id)


def stored(store: GatedStore) -> list[int]:
    """The revisions that were stored, in the order in which they were."""
    return [
        event.revision
        for transaction in store.transactions
        for one in transaction
        for event in one.events
    ]


async def test_a_write_returns_once_it_is_stored(journal: Journal, store: GatedStore) -> None:
    store.hold()
    write = asyncio.create_task(journal.write(numbered(1)))
    await until_async(lambda: store.held)
    assert not write.done()
    assert store.load() == []
    store.release()
    await write
    assert [run.revision for run in await journal.load()] == [1]


async def test_what_arrives_meanwhile_is_one_transaction_in_order(
    journal: Journal, store: GatedStore
) -> None:
    store.hold()
    first = asyncio.create_task(journal.write(numbered(1)))
    await until_async(lambda: store.held)
    others = []
    for index in range(2, 102):
        if index % 5:
            others.append(asyncio.create_task(journal.write(numbered(index))))
            await asyncio.sleep(0)
        else:
            journal.write_behind(numbered(index))
    store.release()
    await asyncio.gather(first, *others)
    assert stored(store) == [*range(1, 102)]
    assert [len(transaction) for transaction in store.transactions] == [1, 100]


async def test_a_failure_is_that_of_its_transaction_alone(
    journal: Journal, store: GatedStore
) -> None:
    store.failures = [None, StorageError("disk on fire")]
    store.hold()
    before = asyncio.create_task(journal.write(numbered(1)))
    await until_async(lambda: store.held)
    together = [asyncio.create_task(journal.write(numbered(2, run))) for run in ("a", "b")]
    await asyncio.sleep(0)
    store.release()
    await before
    for write in together:
        with pytest.raises(StorageError, match="disk on fire"):
            await write
    assert stored(store) == [1]
    await journal.write(numbered(2))
    assert stored(store) == [1, 2]


async def test_a_failure_between_two_good_ones(journal: Journal, store: GatedStore) -> None:
    store.failures = [StorageError("full"), None]
    with pytest.raises(StorageError, match="full"):
        await journal.write(numbered(1))
    await journal.write(numbered(1))
    assert stored(store) == [1]


async def test_a_fault_of_the_store_does_not_stop_the_journal_for_ever(
    journal: Journal, store: GatedStore
) -> None:
    """A bug in a store is answered to who met it; everybody after it is served."""
    store.failures = [OverflowError("Python int too large to convert to SQLite INTEGER")]
    with pytest.raises(StorageError, match="too large"):
        await asyncio.wait_for(journal.write(numbered(1)), 10)
    await asyncio.wait_for(journal.write(numbered(1)), 10)
    assert stored(store) == [1]


async def test_a_failed_write_behind_is_forgotten(journal: Journal, store: GatedStore) -> None:
    store.failures = [StorageError("full")]
    store.hold()
    journal.write_behind(numbered(1))
    await until_async(lambda: store.held)
    store.release()
    await until_async(lambda: not store.failures)
    await journal.write(numbered(1))
    assert stored(store) == [1]


async def test_a_caller_that_goes_away_takes_nothing_along(
    journal: Journal, store: GatedStore
) -> None:
    store.hold()
    writes = [asyncio.create_task(journal.write(numbered(index))) for index in (1, 2, 3)]
    await until_async(lambda: store.held)
    writes[0].cancel()
    writes[1].cancel()
    await asyncio.sleep(0)
    store.release()
    await writes[2]
    assert stored(store) == [1, 2, 3]


async def test_closing_stores_what_is_left_and_takes_nothing_more() -> None:
    store = GatedStore()
    journal = Journal(store)
    store.hold()
    write = asyncio.create_task(journal.write(numbered(1)))
    await until_async(lambda: store.held)
    journal.write_behind(numbered(2))
    journal.write_behind(numbered(3))
    closing = asyncio.create_task(journal.close())
    await asyncio.sleep(0)
    assert not closing.done()
    store.release()
    await closing
    await write
    assert stored(store) == [1, 2, 3]
    with pytest.raises(StorageError, match="closed"):
        await asyncio.wait_for(journal.write(numbered(4)), 10)
    journal.write_behind(numbered(4))
    assert stored(store) == [1, 2, 3]
