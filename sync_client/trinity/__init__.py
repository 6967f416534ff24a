"""A drop-in for Trinity-RFT: its Synchronizer, StateManager and CacheManager without a Ray actor.

    from sync_client.trinity import install; install(server="sync-server:50051")

in a plugin file is all that unmodified Trinity-RFT needs (docs/trinity.md). By hand:

    from sync_client.trinity import get, get_actor
    synchronizer = get_actor(config)
    get(synchronizer.set_model_state_dict.remote(model.state_dict(), step))
"""

from __future__ import annotations

from sync_client.trinity.cache_manager import CacheManager
from sync_client.trinity.getting import get_actor
from sync_client.trinity.handle import SynchronizerHandle
from sync_client.trinity.installation import install, uninstall
from sync_client.trinity.refs import Ref, RefStream, get
from sync_client.trinity.state_manager import StateManager
from sync_client.trinity.statuses import RunningStatus

__all__ = [
    "CacheManager",
    "Ref",
    "RefStream",
    "RunningStatus",
    "StateManager",
    "SynchronizerHandle",
    "get",
    "get_actor",
    "install",
    "uninstall",
]
