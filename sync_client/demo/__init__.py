"""`weightsync demo`: a server, a trainer and explorers, each a process, and a policy that learns.

`command` is the command line; `play` starts the processes and follows them; `trainer` and
`explorer` are what runs in them; nothing but weightsync carries weights from one to the others.
"""
