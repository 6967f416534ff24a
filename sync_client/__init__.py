"""The weightsync SDK: a thin client that moves weights from a trainer to its explorers.

Importing it imports no torch: that happens with the first push or pull of tensors.
"""

from __future__ import annotations

from sync_client.aio import AsyncSyncClient
from sync_client.blocking import SyncClient
from sync_client.blocking_worker import Worker
from sync_client.errors import SyncError
from sync_client.styles import SyncMethod, SyncPlan, SyncStyle
from sync_client.trinity.cache_manager import CacheManager
from sync_client.types import (
    Pulled,
    RunEvent,
    RunStatus,
    TensorInfo,
    VersionInfo,
    VersionSource,
    WaitOutcome,
    WaitResult,
    WorkerRole,
    WorkerState,
    WorkerStatus,
)
from sync_client.worker import AsyncWorker

__all__ = [
    "AsyncSyncClient",
    "AsyncWorker",
    "CacheManager",
    "Pulled",
    "RunEvent",
    "RunStatus",
    "SyncClient",
    "SyncError",
    "SyncMethod",
    "SyncPlan",
    "SyncStyle",
    "TensorInfo",
    "VersionInfo",
    "VersionSource",
    "WaitOutcome",
    "WaitResult",
    "Worker",
    "WorkerRole",
    "WorkerState",
    "WorkerStatus",
]
