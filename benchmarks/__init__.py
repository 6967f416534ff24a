"""What weightsync's ways of moving bytes cost beside a socket. Run: `python -m benchmarks`."""
