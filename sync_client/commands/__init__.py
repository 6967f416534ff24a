"""The commands of `weightsync` that talk to a server, through the SDK."""
