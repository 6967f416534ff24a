"""A plugin for Trinity-RFT: weights go through weightsync in place of the Ray actor.

Put this file into a directory of its own, name the server, and start Trinity-RFT with it:

    trinity run --config my.yaml --plugin-dir /path/to/that/directory
"""

from __future__ import annotations

from sync_client.trinity import install

install(server="sync-server:50051")
