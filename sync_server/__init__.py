"""The weightsync server."""
