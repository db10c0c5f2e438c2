"""gRPC on Trio: the server, the channel, and what every call needs.

grpclib's streams, events and generated handlers run here without asyncio. Handlers raise
`errors.fail(...)`; callers see `errors.RemoteError`, `Unreachable` or `DeadlineExceeded`; a gRPC
status is chosen nowhere else.

Start reading in `server.py` (listeners, drain) and `channel.py` with `stubs.py` (calls made).
`_call.py` is one call on the server, `_client_call.py` one on the client, `_link.py` the HTTP/2
connection under both, `_flow.py` what they wait on. `_grpclib` alone leans on names that grpclib,
betterproto2 and h2 do not promise. `auth.py` says who may call, `_wire.py` judges messages before
they are decoded, `turns.py` says whose is next, so that none of it holds up the rest, `spool.py`
and `budget.py` keep large uploads out of memory, `health.py` and
`reflection.py` are the two standard services, `contract/` turns generated messages into core's
records and back.

Imported by client, master and worker; imports core and `hivemind._pb` only.
"""
