"""`python -m sync_server` is `weightsync`."""

from sync_server.cli import main

main()
