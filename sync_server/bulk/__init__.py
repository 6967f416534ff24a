"""The bulk port: versions as plain HTTP/1.1, GET with Range and PUT, one thread a connection.

Bytes go between the socket and the blob's pages, by `sendfile` and `recv_into`; nothing of them
passes through the event loop. Who may read or write what is in a ticket, which the gRPC service
gave out with the plan. docs/decisions/bulk-port.md says why it is made so.
"""
