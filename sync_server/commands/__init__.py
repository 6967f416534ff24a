"""The commands of `weightsync` that belong to the server: serve, config, check."""
