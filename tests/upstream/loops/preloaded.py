"""What every process of a run has imported before it is forked: torch, upstream's classes, ours.

Importing this is for processes that run the loops alone.
"""

from __future__ import annotations

import importlib

import sync_client.trinity  # noqa: F401 - see above
from tests.upstream.loops import stand_ins

stand_ins.install()

Synchronizer = importlib.import_module("trinity.manager.synchronizer").Synchronizer
Trainer = importlib.import_module("trinity.trainer.trainer").Trainer
Explorer = importlib.import_module("trinity.explorer.explorer").Explorer
importlib.import_module("trinity.common.config_validator")
