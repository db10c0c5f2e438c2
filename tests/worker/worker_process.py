"""A worker as a program, for tests that kill it: HOME and HOST:PORT of its master.

SIGTERM drains it, as the command line does.
"""

import signal
import sys
from pathlib import Path

import trio

from hivemind.settings.daemon import WorkerConfig, parse_address
from hivemind.worker.app import open_worker
from tests.pool import LIMITS


async def main(home: str, master: str) -> None:
    config = WorkerConfig(
        home=Path(home),
        master=parse_address(master),
        join_token="join-me",
        slots=2,
        limits=LIMITS,
        drain_grace_s=0.2,
    )
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with open_worker(config) as worker:
            print("ready", worker.address, flush=True)
            async for _ in signals:
                await worker.drain()
                return


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2])
