"""Stand-ins for Trinity-RFT's own classes."""
