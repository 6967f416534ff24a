"""What the weightsync server and its clients share: names, file layout, digests, error details.

The generated gRPC code lies in `weightsync.v1`. The modules beside it are pure: they import only
the standard library, `xxhash` and `protobuf`, and read no clock, socket or file.
"""
