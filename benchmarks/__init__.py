"""What weightsync's ways of moving bytes cost beside a plain socket. Run: `python -m benchmarks`."""
