"""Messages of the wire into core's records and back.

One module for each service of the contract. Each has three parts: how its messages and records
turn into each other, ``*Handlers`` (what a daemon implements, in records) with ``serve_*`` (which
makes it a service for ``rpc.server``), and a ``*Client`` (the same calls from the other side).
No generated message leaves this package, so the codec of a hot message can be changed here alone.

A message that makes no sense (an unknown enum value, a missing part) is INVALID_ARGUMENT.
"""
