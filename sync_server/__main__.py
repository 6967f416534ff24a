"""`python -m sync_server` is `weightsync`."""

from __future__ import annotations

from sync_server.cli import main

main()
