"""One servicer for each service: convert in, call, convert out. No decision is taken here."""
