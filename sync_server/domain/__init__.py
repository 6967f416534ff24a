"""Pure decisions: no I/O, no clock, no gRPC. Every function takes `now` as an argument."""
