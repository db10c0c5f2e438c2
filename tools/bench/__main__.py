"""`just bench [sandbox] [pool]`: what a sandboxed task costs, and what a pool adds to it.

The yardstick, measured again before each benchmark, is a bare `posix_spawn` of /bin/true with its
output read to the end.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from hivemind.client import open_client
from tests.pool import Pool, open_pool_folder
from tools.bench import bare, sandboxes

RUNS = 60
SUBMITS = 150


def show(what: str, seconds: float, bare_s: float) -> None:
    print(f"{what:<44} {seconds * 1000:8.2f} ms  {seconds / bare_s:7.1f}x bare")


async def timed(what: Callable[[], Awaitable[object]], runs: int) -> float:
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        await what()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


async def bench_pool() -> None:
    bare_s = bare.one_s(bare.TRUE, RUNS)
    show("bare posix_spawn of true", bare_s, bare_s)
    with (
        tempfile.TemporaryDirectory() as folder,
        open_pool_folder(Path(folder) / "pool") as daemons,
    ):
        await _bench_pool(daemons, bare_s)


async def _bench_pool(daemons: Pool, bare_s: float) -> None:
    up = daemons.up()
    async with open_client(home=up.home) as client:

        async def one() -> None:
            task = await client.submit(command=["true"])
            await client.wait(task)

        show("one task through an idle pool, true", await timed(one, RUNS), bare_s)
        begun = time.perf_counter()
        tasks = [await client.submit(command=["true"]) for _ in range(SUBMITS)]
        submit_s = (time.perf_counter() - begun) / SUBMITS
        show(f"a durable submit, one by one ({SUBMITS})", submit_s, bare_s)
        for task in tasks:
            await client.wait(task)
        each_s = (time.perf_counter() - begun) / SUBMITS
        show("a task of many, submit to end", each_s, bare_s)
    up.stop()


BENCHMARKS = {"sandbox": sandboxes.bench, "pool": bench_pool}


async def main() -> None:
    names = sys.argv[1:] or list(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            sys.exit(f"bench: {name} is unknown; choose of {', '.join(BENCHMARKS)}")
    for name in names:
        print(f"-- {name}")
        await BENCHMARKS[name]()


trio.run(main)
