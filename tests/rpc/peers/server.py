"""A server of ours in its own process: prints its port; on "rss" its memory; on "drain" it drains.

Usage: server.py [SPOOL_FOLDER]. Methods that are not of hmtest.Echo need the token `good`.
"""

import json
import sys
from functools import partial
from pathlib import Path

import trio

from hivemind.rpc.auth import Authenticator
from hivemind.rpc.budget import ByteBudget
from hivemind.rpc.config import MIB, TransportConfig
from hivemind.rpc.server import Server, open_listeners
from hivemind.rpc.spool import Spool, SpooledField
from tests.rpc.service import OPEN_METHODS, EchoService, GateService, verify


def rss_kib(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])


def forget_peak() -> None:
    """Lets VmHWM begin anew (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


async def main() -> None:
    listeners = await open_listeners("127.0.0.1", 0)
    spool, spooled = None, {}
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        spool = Spool(folder=folder, budget=ByteBudget(300 * MIB), max_bytes=100_000_000)
        await spool.sweep()
        spooled = {"/hmtest.Gate/Store": SpooledField(field_number=2)}
    server = Server(
        [EchoService(), GateService()],
        authenticator=Authenticator(OPEN_METHODS, verify),
        config=TransportConfig(open_message_bytes=4 * MIB, drain_grace_s=5),
        spool=spool,
        spooled=spooled,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(server.serve, listeners))
        print(listeners[0].socket.getsockname()[1], flush=True)
        stdin = trio.lowlevel.FdStream(0)
        while data := await stdin.receive_some():
            for word in json.loads(b"[" + b",".join(data.split()) + b"]"):
                if word == "rss":
                    forget_peak()
                    print(rss_kib("VmRSS"), flush=True)
                elif word == "peak":
                    print(rss_kib("VmHWM"), flush=True)
                elif word == "drain":
                    server.drain()
        nursery.cancel_scope.cancel()


trio.run(main)
